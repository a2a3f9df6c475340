use std::process::Command;

use pprof_proto::{Label, check, decode};

use super::*;
use crate::fixture::{Builder, NOON_NS, sample};

fn text(p: &proto::Profile, i: i64) -> &str {
    &p.string_table[usize::try_from(i).unwrap()]
}

fn labels(p: &proto::Profile, sample: usize) -> Vec<(&str, String)> {
    let show = |l: &Label| if l.str == 0 { l.num.to_string() } else { text(p, l.str).to_owned() };
    p.sample[sample].label.iter().map(|l| (text(p, l.key), show(l))).collect()
}

#[test]
fn says_what_the_profile_says() {
    let p = decode(&encode(&sample(0), &PprofOptions { comments: vec!["by a test".into()] }), 1 << 20).unwrap();
    check(&p).unwrap();
    let types: Vec<_> = p.sample_type.iter().map(|t| (text(&p, t.r#type), text(&p, t.unit))).collect();
    assert_eq!(types, [("samples", "count"), ("cpu", "nanoseconds")]);
    assert_eq!(text(&p, p.default_sample_type), "cpu");
    assert_eq!(p.period_type, Some(p.sample_type[1]));
    assert_eq!(p.period, 10_000_000);
    assert_eq!((p.time_nanos, p.duration_nanos), (i64::try_from(NOON_NS).unwrap(), 5_000_000_000));
    let comments: Vec<_> = p.comment.iter().map(|&c| text(&p, c)).collect();
    assert_eq!(
        comments,
        [
            "from: 2026-11-22T14:00:00.000Z (1795356000000000000)",
            "to: 2026-11-22T14:00:05.000Z (1795356005000000000)",
            "by a test"
        ]
    );
    let values: Vec<_> = p.sample.iter().map(|s| s.value.clone()).collect();
    assert_eq!(values[0], [60, 600_000_000]);
    assert_eq!(p.sample.iter().map(|s| s.value[0]).sum::<i64>(), 100);
    assert_eq!(labels(&p, 0), [("pid", "10".into()), ("process", "app".into()), ("comm", "app".into())]);
    assert_eq!(labels(&p, 4)[1].1, "kworker/0:1");
}

#[test]
fn mappings_tell_the_truth() {
    let p = message(&sample(0), &PprofOptions::default());
    let rows: Vec<_> = p
        .mapping
        .iter()
        .map(|m| (text(&p, m.filename), text(&p, m.build_id), m.memory_start, m.memory_limit, m.file_offset))
        .collect();
    assert_eq!(rows[0], ("/usr/bin/app", "abcdef01", 0x1000, 0x9000, 0x1000));
    let by_path = |path: &str| p.mapping.iter().find(|m| text(&p, m.filename) == path).unwrap();
    assert!(by_path("/usr/bin/app").has_functions && by_path("[kernel]").has_functions);
    let go = by_path("/usr/bin/gosrv");
    assert!(!go.has_functions, "one of its frames has no name");
    assert_eq!(text(&p, go.build_id), "go/build/id");
    assert!(p.mapping.iter().all(|m| !m.has_filenames && !m.has_line_numbers && !m.has_inline_frames));
}

#[test]
fn the_main_program_comes_first_even_where_no_frame_is_its_own() {
    let p = Builder::window(0)
        .row(5, "/usr/bin/other", &["x"], 3)
        .row(6, "/usr/bin/python3", &["/lib/libpython.so!eval"], 9)
        .row(2, "", &["k:kthread"], 50)
        .build();
    let p = message(&p, &PprofOptions::default());
    assert_eq!(text(&p, p.mapping[0].filename), "/usr/bin/python3");
    check(&p).unwrap();
    // The executable was never read: its path is all that is known.
    let mut q = Builder::window(0).row(6, "/usr/bin/python3", &["/lib/libpython.so!eval"], 9).build();
    q.owner_mappings[0] = None;
    let q = message(&q, &PprofOptions::default());
    assert_eq!(text(&q, q.mapping[0].filename), "/usr/bin/python3");
    assert!(!q.mapping[0].has_functions);
    check(&q).unwrap();
}

#[test]
fn threads_and_containers_are_labels_where_known() {
    let mut owner = Builder::owner(10, "/usr/bin/app", "worker-1");
    owner.tid = Some(17);
    owner.place = Builder::place("c0ffee");
    let pod = [("k8s.container.name", "web"), ("k8s.namespace.name", "shop"), ("k8s.pod.name", "cart-0")];
    owner.identity = Builder::identity("cart", &pod);
    let p = message(&Builder::window(0).owned(owner, &["f"], 1).build(), &PprofOptions::default());
    assert_eq!(
        labels(&p, 0),
        [
            ("pid", "10".to_owned()),
            ("process", "app".into()),
            ("comm", "worker-1".into()),
            ("thread", "worker-1".into()),
            ("service_name", "cart".into()),
            ("namespace", "shop".into()),
            ("pod", "cart-0".into()),
            ("container", "web".into()),
            ("container_id", "c0ffee".into()),
            ("tid", "17".into()),
        ]
    );
}

#[test]
fn only_what_samples_refer_to_is_written() {
    let profile = sample(0);
    let few: Vec<_> = profile.entries.iter().take(1).collect();
    let p = message_of(&profile, &few, &PprofOptions::default());
    check(&p).unwrap();
    assert_eq!((p.mapping.len(), p.function.len(), p.location.len(), p.sample.len()), (1, 3, 3, 1));
    assert!(!p.string_table.iter().any(|s| s.contains("runtime")));
    let nothing = message(&Profile::default(), &PprofOptions::default());
    check(&nothing).unwrap();
    assert_eq!(nothing.sample.len(), 0);
}

/// The real `pprof`, where it is installed.
fn real_pprof() -> Option<std::path::PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(std::path::PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| std::path::PathBuf::from(home).join(".cache")))?;
    let found = cache.join("profiler-peers/pprof-20260906/pprof");
    found.is_file().then_some(found)
}

#[test]
fn pprof_reads_it() {
    let Some(pprof) = real_pprof() else {
        println!("skipped: pprof is not installed under profiler-peers (`cargo xtask test` installs it)");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("p.pb.gz");
    std::fs::write(&file, encode(&sample(0), &PprofOptions::default())).unwrap();
    let run = |args: &[&str]| {
        let out = Command::new(&pprof)
            .args(["-symbolize=none"])
            .args(args)
            .arg(&file)
            .env("PPROF_TMPDIR", dir.path())
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    let raw = run(&["-raw"]);
    for want in [
        "PeriodType: cpu nanoseconds",
        "Period: 10000000",
        "Time: 2026-11-22 14:00:00",
        "Duration: 5s",
        "samples/count cpu/nanoseconds[dflt]",
        "1: 0x1000/0x9000/0x1000 /usr/bin/app abcdef01 [FN]",
        "/usr/bin/gosrv go/build/id \n",
        "60  600000000: ",
        "pid:[10]",
    ] {
        assert!(raw.contains(want), "{want:?} is missing in\n{raw}");
    }
    let top = run(&["-top"]);
    let row = top.lines().find(|l| l.ends_with(" work")).unwrap();
    assert!(row.contains("800ms") && row.contains("80.00%"), "{top}");
    let counts = run(&["-top", "-sample_index=samples", "-tagfocus=process=gosrv"]);
    assert!(counts.contains("runtime.mcall") && !counts.contains("work"), "{counts}");
}
