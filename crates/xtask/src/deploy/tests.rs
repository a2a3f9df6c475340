//! Tests of the reading of our own files, without any of the programs.

use super::*;

#[test]
fn rules_move_in() {
    let made =
        prometheus_rule(&["# why\ngroups:\n  - name: a\n\n    rules: []\n", "groups: no\ngroups:\n  - name: b\n"])
            .unwrap();
    assert!(made.ends_with("spec:\n  groups:\n    - name: a\n\n      rules: []\n    - name: b\n"), "{made}");
    assert!(prometheus_rule(&["rules: []"]).is_err());
}

#[test]
fn capabilities_of_manifest_and_page() {
    let manifest = "x:\n  capabilities: # why\n    drop: [ALL]\n    add:\n      - BPF\n      - PERFMON # attach\n  other:\n    - NOT\n";
    let page = "| `CAP_NOT` |\n<!-- capabilities: begin -->\n| capability | what for |\n| --- | --- |\n| `CAP_BPF` | a |\n\
                | `CAP_PERFMON` | b |\n<!-- capabilities: end -->\n| `CAP_NOT` |\n";
    assert_eq!(given(manifest), told(page));
    assert_eq!(given(manifest).unwrap().len(), 2);
    assert_eq!(given("none"), None);
}

#[test]
fn names_of_metrics() {
    let text = "sum(profiler_cpus{a=\"b\"}) / node:profiler_x:rate `profiler_ticks_total{cpu}`, my_profiler_y";
    assert_eq!(metrics(text).into_iter().collect::<Vec<_>>(), ["profiler_cpus", "profiler_ticks_total"]);
}

#[test]
fn what_every_build_has() {
    let agent = "kind: Namespace\n---\nkind: DaemonSet\nmetadata:\n  labels:\n    app: profiler\n  name: profiler\nhostPID: true\n\
                 a:\n  prometheus.io/path: /metrics\n  prometheus.io/port: \"2112\"\n  prometheus.io/scrape: \"true\"\n\
                 readOnlyRootFilesystem: true\n";
    promised("base", agent).unwrap();
    assert!(promised("base", &agent.replace("hostPID: true\n", "")).is_err());
    assert!(promised("base", &format!("{agent}privileged: true\n")).is_err());
    promised("overlays/privileged", &format!("{agent}privileged: true\n")).unwrap();
    assert!(promised("base", "kind: Pod\n").is_err());
    promised("prometheus/operator", "kind: PodMonitor\n").unwrap();
}
