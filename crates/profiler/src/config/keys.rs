//! The profiler's own settings: one table for the flag, the variable, the key of the file, the value's check and how
//! it is shown. Everything else about configuration follows from it.

use super::fields::*;
use super::settings::Settings;
use super::value::{boolean, listen, pids, show_list};

/// One setting.
pub(crate) struct Key {
    /// Its path under `distribution.profiler` in the file.
    pub(crate) path: &'static str,
    /// Its environment variable.
    pub(crate) variable: &'static str,
    /// Its flag; empty where it has none.
    pub(crate) flag: &'static str,
    /// Reads and checks a value.
    pub(crate) set: fn(&mut Settings, &str) -> Result<(), String>,
    /// Shows the value as `set` reads it.
    pub(crate) get: fn(&Settings) -> String,
}

/// Makes a key from where its value lives, how it is read and how it is shown.
macro_rules! key {
    ($path:literal, $variable:literal, $flag:literal, $($field:ident).+, $read:expr, $show:expr) => {
        Key {
            path: $path,
            variable: $variable,
            flag: $flag,
            set: |s, text| {
                s.$($field).+ = $read(text)?;
                Ok(())
            },
            get: |s| $show(&s.$($field).+),
        }
    };
}

/// Every setting of our own, in the order in which it is shown.
pub(crate) const KEYS: &[Key] = &[
    key!("sampling.frequency", "PROFILER_FREQUENCY", "--frequency", sampling.frequency_hz, frequency, text),
    key!("sampling.pid", "PROFILER_PID", "--pid", sampling.pids, pids, show_pids),
    key!("sampling.children", "PROFILER_CHILDREN", "--children", sampling.children, boolean, text),
    key!("sampling.window", "PROFILER_WINDOW", "--window", sampling.window, window, show_duration_ref),
    key!(
        "sampling.snapshot_bytes",
        "PROFILER_SNAPSHOT_BYTES",
        "--snapshot-bytes",
        sampling.snapshot_bytes,
        snapshot_bytes,
        show_bytes_32
    ),
    key!(
        "sampling.ring_bytes",
        "PROFILER_RING_BYTES",
        "--ring-bytes",
        sampling.ring_bytes,
        ring_bytes,
        show_ring_bytes
    ),
    key!("sampling.merge_bytes", "PROFILER_MERGE_BYTES", "", sampling.merge_bytes, budget, show_bytes_64),
    key!("sampling.threads", "PROFILER_THREADS", "--threads", sampling.threads, boolean, text),
    key!("sampling.timestamps", "PROFILER_TIMESTAMPS", "--timestamps", sampling.timestamps, boolean, text),
    key!("sampling.include_self", "PROFILER_INCLUDE_SELF", "--include-self", sampling.include_self, boolean, text),
    key!(
        "sampling.kernel_threads",
        "PROFILER_KERNEL_THREADS",
        "--no-kernel-threads",
        sampling.kernel_threads,
        boolean,
        text
    ),
    key!("unwind.tables", "PROFILER_UNWIND_TABLES", "", unwind.kernel.tables, tables, show_tables),
    key!(
        "unwind.memory",
        "PROFILER_UNWIND_MEMORY",
        "--unwind-memory",
        unwind.kernel.memory_bytes,
        budget,
        show_bytes_64
    ),
    key!("unwind.max_frames", "PROFILER_UNWIND_MAX_FRAMES", "", unwind.kernel.max_frames, max_frames, text),
    key!("unwind.check", "PROFILER_UNWIND_CHECK", "", unwind.kernel.check, check, show_check),
    key!("unwind.cache", "PROFILER_UNWIND_CACHE", "", unwind.cache, cache, show_cache),
    key!("filter.include", "PROFILER_INCLUDE", "--include", filter.include, rules, show_list),
    key!("filter.exclude", "PROFILER_EXCLUDE", "--exclude", filter.exclude, rules, show_list),
    key!("identity.kubernetes", "PROFILER_KUBERNETES", "", identity.kubernetes, kubernetes, show_kubernetes),
    key!("identity.kubelet_url", "PROFILER_KUBELET_URL", "", identity.kubelet_url, kubelet_url, show_text),
    key!("identity.kubelet_ca", "PROFILER_KUBELET_CA", "", identity.kubelet_ca, optional_path, show_optional_path),
    key!("identity.insecure", "PROFILER_KUBELET_INSECURE", "", identity.insecure_skip_verify, boolean, text),
    key!("identity.token_file", "PROFILER_TOKEN_FILE", "", identity.token_file, path, show_path),
    key!("identity.kubeconfig", "PROFILER_KUBECONFIG", "", identity.kubeconfig, optional_path, show_optional_path),
    key!("identity.node_name", "PROFILER_NODE_NAME", "", identity.node_name, optional_text, show_text),
    key!("identity.node_ip", "PROFILER_NODE_IP", "", identity.node_ip, optional_text, show_text),
    key!("identity.cri_socket", "PROFILER_CRI_SOCKET", "", identity.cri_socket, optional_path, show_optional_path),
    key!("identity.runtimes", "PROFILER_RUNTIMES", "", identity.runtimes, boolean, text),
    key!("identity.host_root", "PROFILER_HOST_ROOT", "", identity.host_root, path, show_path),
    key!("identity.environment", "PROFILER_PROCESS_ENVIRONMENT", "", sampling.environment, boolean, text),
    key!("identity.labels", "PROFILER_POD_LABELS", "", identity.labels, selected, show_list),
    key!("identity.annotations", "PROFILER_POD_ANNOTATIONS", "", identity.annotations, selected, show_list),
    key!(
        "identity.optional_attributes",
        "PROFILER_OPTIONAL_ATTRIBUTES",
        "",
        identity.optional_attributes,
        optional_attributes,
        show_list
    ),
    key!("identity.verbatim_keys", "PROFILER_VERBATIM_KEYS", "", identity.verbatim_keys, boolean, text),
    key!("identity.keep", "PROFILER_IDENTITY_KEEP", "", identity.keep, keep_names, show_duration_ref),
    key!("web.listen", "PROFILER_LISTEN", "--listen", web.listen, listen, text),
    key!(
        "web.profiles_from",
        "PROFILER_PROFILES_FROM",
        "--profiles-from",
        web.profiles_from,
        profiles_from,
        show_profiles_from
    ),
    key!("web.keep", "PROFILER_KEEP", "", web.keep, keep, show_duration_ref),
    key!("web.keep_bytes", "PROFILER_KEEP_BYTES", "", web.keep_bytes, budget, show_bytes_64),
    key!("export.interval", "PROFILER_EXPORT_INTERVAL", "", export.interval, interval, show_duration_ref),
    key!("export.queue_bytes", "PROFILER_EXPORT_QUEUE_BYTES", "", export.queue_bytes, budget, show_bytes_64),
    key!(
        "export.max_request_bytes",
        "PROFILER_EXPORT_MAX_REQUEST_BYTES",
        "",
        export.max_request_bytes,
        request_bytes,
        show_bytes_64
    ),
    key!("export.service_name", "PROFILER_EXPORT_SERVICE_NAME", "", export.service_name, optional_text, show_text),
    key!("export.pid", "PROFILER_EXPORT_PID", "", export.pid, boolean, text),
    key!("export.payload", "PROFILER_EXPORT_PAYLOAD", "", export.payload, boolean, text),
    key!("export.sample_attributes", "PROFILER_EXPORT_SAMPLE_ATTRIBUTES", "", export.sample_attributes, boolean, text),
    key!("export.max_attributes", "PROFILER_EXPORT_MAX_ATTRIBUTES", "", export.max_attributes, max_attributes, text),
    key!(
        "export.shutdown_timeout",
        "PROFILER_EXPORT_SHUTDOWN_TIMEOUT",
        "",
        export.shutdown_timeout,
        shutdown_timeout,
        show_duration_ref
    ),
    key!(
        "metrics.aggregated_series",
        "PROFILER_AGGREGATED_SERIES",
        "",
        metrics.aggregated.series,
        aggregated_series,
        text
    ),
    key!(
        "metrics.aggregated_labels",
        "PROFILER_AGGREGATED_LABELS",
        "",
        metrics.aggregated.labels,
        aggregated_labels,
        show_aggregated_labels
    ),
    key!("log.level", "PROFILER_LOG_LEVEL", "--log-level", log.level, log_level, text),
    key!("log.format", "PROFILER_LOG_FORMAT", "--log-format", log.format, log_format, show_log_format),
    key!("print", "PROFILER_PRINT", "--print", print, boolean, text),
];

/// The key with this path.
pub(crate) fn by_path(path: &str) -> Option<&'static Key> {
    KEYS.iter().find(|k| k.path == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_a_good_value_and_reads_back() {
        let defaults = Settings::default();
        for key in KEYS {
            let shown = (key.get)(&defaults);
            let mut settings = defaults.clone();
            (key.set)(&mut settings, &shown).unwrap_or_else(|e| panic!("{}: `{shown}` {e}", key.path));
            assert_eq!(settings, defaults, "{}", key.path);
        }
    }

    #[test]
    fn names_follow_one_rule_and_stand_once() {
        for (i, key) in KEYS.iter().enumerate() {
            assert!(key.variable.starts_with("PROFILER_"), "{}", key.variable);
            assert!(KEYS[..i].iter().all(|k| k.path != key.path && k.variable != key.variable), "{}", key.path);
        }
    }

    #[test]
    fn the_documentation_names_every_setting_with_its_default() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
        let text = std::fs::read_to_string(path).unwrap();
        for key in KEYS {
            let row = text.lines().find(|l| l.starts_with(&format!("| `{}` |", key.path)));
            let row = row.unwrap_or_else(|| panic!("{} has no row", key.path));
            assert!(row.contains(&format!("`{}`", key.variable)), "{row}");
            assert!(row.contains(key.flag), "{row}");
            let default = (key.get)(&Settings::default());
            assert!(default.is_empty() || row.contains(&format!("| `{default}` |")), "{row}: {default}");
        }
    }

    #[test]
    fn bad_values_are_refused() {
        for (path, bad) in [
            ("sampling.frequency", "0"),
            ("sampling.frequency", "1001"),
            ("sampling.frequency", "fast"),
            ("sampling.window", "0s"),
            ("sampling.window", "61s"),
            ("sampling.snapshot_bytes", "64MiB"),
            ("sampling.ring_bytes", "3MiB"),
            ("export.max_request_bytes", "4MiB"),
            ("unwind.tables", "on"),
            ("unwind.memory", "64KiB"),
            ("unwind.memory", "8GiB"),
            ("unwind.max_frames", "0"),
            ("unwind.max_frames", "1025"),
            ("unwind.check", "0.5"),
            ("unwind.check", "1/0"),
            ("unwind.check", "1/1000001"),
            ("unwind.cache", "cache"),
            ("unwind.cache", ""),
            ("log.level", "loud"),
            ("log.format", "xml"),
            ("web.profiles_from", "world"),
            ("filter.include", "shop"),
            ("filter.exclude", "comm=a,unit="),
            ("identity.kubernetes", "docker"),
            ("identity.kubelet_url", "node:10250"),
            ("identity.kubelet_url", "https://node:10250?x=y"),
            ("identity.kubelet_url", "https://user:password@node:10250"),
            ("identity.host_root", "host"),
            ("identity.host_root", ""),
            ("identity.labels", "app,a b"),
            ("identity.keep", "1s"),
            ("metrics.aggregated_series", "99999"),
            ("metrics.aggregated_labels", "pid,function"),
            ("export.max_attributes", "0"),
            ("identity.optional_attributes", "k8s.job.name,k8s.pod.name"),
        ] {
            let key = by_path(path).unwrap();
            assert!((key.set)(&mut Settings::default(), bad).is_err(), "{path} {bad}");
        }
        let many = vec!["comm=x"; crate::filter::MAX_RULES + 1].join(",");
        let error = (by_path("filter.include").unwrap().set)(&mut Settings::default(), &many).unwrap_err();
        assert!(error.contains("more than 256"), "{error}");
        let error = rules("comm=a,unit=").unwrap_err();
        assert_eq!(error, "holds `unit=`, which has nothing after `=`");
        let error = check("200").unwrap_err();
        assert_eq!(error, "is none of off, adaptive, 1/N with N from 1 to 1000000");
        assert_eq!(check("1 / 200").map(|c| show_check(&c)).as_deref(), Ok("1/200"));
        assert_eq!(log_level("WARN2").as_deref(), Ok("warn"));
        assert_eq!(log_level("sampler=debug,info").as_deref(), Ok("sampler=debug,info"));
    }
}
