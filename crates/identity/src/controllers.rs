//! What made a pod, as far as the pod itself tells.
//!
//! A pod names its ReplicaSet or Job only. Their names tell of the Deployment or CronJob above: a Deployment names its
//! ReplicaSets by itself and the label `pod-template-hash`, a CronJob its Jobs by itself and the minute of their schedule.

use std::sync::Arc;

use crate::bounds;
use crate::workload::{Pod, WorkloadKind};

/// Digits that a CronJob puts behind its name: minutes since 1970 have eight since 1989, seconds had ten.
const SCHEDULE_DIGITS: usize = 8;
/// Letters that controllers put behind a pod's name.
const SUFFIX_LETTERS: usize = 5;
/// Of how many letters the hash of a ReplicaSet is: a number of 32 bits, one letter for each digit, mostly all ten.
const HASH_LETTERS: std::ops::RangeInclusive<usize> = 8..=10;
/// The letters that Kubernetes makes names with: no vowels, and nothing that looks like one, so that no words come about.
const LETTERS: &str = "bcdfghjklmnpqrstvwxz2456789";

/// The controllers of a pod whose owner is `kind` `name`, the outermost first.
pub(crate) fn of_owner(kind: &str, name: &str, template_hash: Option<&str>) -> Vec<(WorkloadKind, Arc<str>)> {
    let Some((kind, name)) = self::kind(kind).and_then(|k| Some((k, bounds::name(name)?))) else { return Vec::new() };
    let above = match kind {
        WorkloadKind::ReplicaSet => deployment_of(&name, template_hash).map(|d| (WorkloadKind::Deployment, d)),
        WorkloadKind::Job => cron_job_of(&name).map(|c| (WorkloadKind::CronJob, c)),
        _ => None,
    };
    let above = above.and_then(|(kind, name)| Some((kind, bounds::name(name)?)));
    above.into_iter().chain([(kind, Arc::clone(&name))]).collect()
}

/// The controllers of a pod whose owner is not known: what its labels and its name tell.
pub(crate) fn of_labels(pod: &Pod) -> Vec<(WorkloadKind, Arc<str>)> {
    if let Some(job) = pod.label("batch.kubernetes.io/job-name").or_else(|| pod.label("job-name")) {
        return of_owner("Job", job, None);
    }
    if pod.label("statefulset.kubernetes.io/pod-name") == Some(&*pod.name) {
        let set = pod.name.rsplit_once('-').filter(|(_, ordinal)| ordinal.bytes().all(|b| b.is_ascii_digit()));
        return set.map_or_else(Vec::new, |(set, _)| of_owner("StatefulSet", set, None));
    }
    let Some((owner, suffix)) = pod.name.rsplit_once('-') else { return Vec::new() };
    if suffix.len() != SUFFIX_LETTERS || !suffix.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()) {
        return Vec::new();
    }
    if let Some(hash) = pod.label("pod-template-hash") {
        // Without the hash in its name the ReplicaSet is nobody's.
        return if deployment_of(owner, Some(hash)).is_some() {
            of_owner("ReplicaSet", owner, Some(hash))
        } else {
            Vec::new()
        };
    }
    if pod.label("controller-revision-hash").is_some() {
        return of_owner("DaemonSet", owner, None);
    }
    Vec::new()
}

/// The Deployment of a pod of which nothing but the name is known: `NAME-HASH-LETTERS`, where both are of the letters that
/// Kubernetes takes. Others tell nothing: the suffix of a DaemonSet's pod could be anybody's.
pub(crate) fn of_name(pod: &str) -> Vec<(WorkloadKind, Arc<str>)> {
    let made = |text: &str| text.chars().all(|c| LETTERS.contains(c));
    let told = pod.rsplit_once('-').filter(|(_, suffix)| suffix.len() == SUFFIX_LETTERS && made(suffix));
    let hashed = told.and_then(|(owner, _)| Some((owner, owner.rsplit_once('-')?.1)));
    match hashed.filter(|(_, hash)| HASH_LETTERS.contains(&hash.len()) && made(hash)) {
        Some((owner, hash)) => of_owner("ReplicaSet", owner, Some(hash)),
        None => Vec::new(),
    }
}

fn kind(name: &str) -> Option<WorkloadKind> {
    use WorkloadKind as K;
    [K::Deployment, K::ReplicaSet, K::StatefulSet, K::DaemonSet, K::CronJob, K::Job, K::ReplicationController]
        .into_iter()
        .find(|k| k.label() == name)
}

fn deployment_of<'a>(replica_set: &'a str, template_hash: Option<&str>) -> Option<&'a str> {
    let hash = template_hash.filter(|hash| !hash.is_empty())?;
    replica_set.strip_suffix(hash)?.strip_suffix('-').filter(|name| !name.is_empty())
}

fn cron_job_of(job: &str) -> Option<&str> {
    let (name, schedule) = job.rsplit_once('-')?;
    let scheduled = schedule.len() >= SCHEDULE_DIGITS && schedule.bytes().all(|b| b.is_ascii_digit());
    (scheduled && !name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(controllers: &[(WorkloadKind, Arc<str>)]) -> String {
        let one = |(kind, name): &(WorkloadKind, Arc<str>)| format!("{}/{name}", kind.label());
        controllers.iter().map(one).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn owners() {
        for (kind, name, hash, want) in [
            ("ReplicaSet", "web-5d4", Some("5d4"), "Deployment/web ReplicaSet/web-5d4"),
            ("ReplicaSet", "web-5d4", Some("abc"), "ReplicaSet/web-5d4"),
            ("ReplicaSet", "web-5d4", None, "ReplicaSet/web-5d4"),
            ("ReplicaSet", "-5d4", Some("5d4"), "ReplicaSet/-5d4"),
            ("ReplicaSet", "5d4", Some("5d4"), "ReplicaSet/5d4"),
            ("Job", "nightly-29001234", None, "CronJob/nightly Job/nightly-29001234"),
            ("Job", "nightly-2900123", None, "Job/nightly-2900123"),
            ("Job", "-29001234", None, "Job/-29001234"),
            ("Job", "once", None, "Job/once"),
            ("StatefulSet", "db", None, "StatefulSet/db"),
            ("DaemonSet", "log", None, "DaemonSet/log"),
            ("Node", "n1", None, ""),
            ("", "", None, ""),
        ] {
            assert_eq!(shown(&of_owner(kind, name, hash)), want, "{kind} {name} {hash:?}");
        }
    }

    #[test]
    fn names() {
        for (name, want) in [
            ("checkout-5c5bc49f49-7ktnj", "Deployment/checkout ReplicaSet/checkout-5c5bc49f49"),
            ("a-b-5c5bc49f49-7ktnj", "Deployment/a-b ReplicaSet/a-b-5c5bc49f49"),
            ("checkout-5c5bc49f49-7ktn", ""),
            ("checkout-5c5bc49f49-7ktna", ""),
            ("checkout-frontend-7ktnj", ""),
            ("checkout-5c5bc-7ktnj", ""),
            ("5c5bc49f49-7ktnj", ""),
            ("log-7ktnj", ""),
            ("db-0", ""),
            ("", ""),
        ] {
            assert_eq!(shown(&of_name(name)), want, "{name}");
        }
    }

    #[test]
    fn labels() {
        for (name, labels, want) in [
            ("web-5d4-x7k2p", vec![("pod-template-hash", "5d4")], "Deployment/web ReplicaSet/web-5d4"),
            ("web-x7k2p", vec![("pod-template-hash", "5d4")], ""),
            ("log-x7k2p", vec![("controller-revision-hash", "5d4")], "DaemonSet/log"),
            (
                "db-0",
                vec![("controller-revision-hash", "5d4"), ("statefulset.kubernetes.io/pod-name", "db-0")],
                "StatefulSet/db",
            ),
            ("nightly-29001234-x7k2p", vec![("job-name", "nightly-29001234")], "CronJob/nightly Job/nightly-29001234"),
            ("alone", vec![], ""),
            ("alone-x7k2p", vec![("app", "web")], ""),
        ] {
            let labels = bounds::pairs(labels.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())));
            let pod = Pod { name: name.into(), labels, ..Pod::default() };
            assert_eq!(shown(&of_labels(&pod)), want, "{name}");
        }
    }
}
