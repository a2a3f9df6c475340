//! What the rules say of one process, as far as it is known who it is.
//!
//! A fact may be unknown: a pod's name that the kubelet has not told yet, the cgroup of a process that was gone before it
//! was read. Then a rule is neither true nor false, and neither may be the decision. Until it is made, samples are dropped:
//! what an operator excluded must not be exported, and what was not included was not asked for.
//!
//! **In**: rules; a subject, whose texts are the target's (hostile); what is known of its container. **Out**: a
//! [`Verdict`]. No I/O, no state.

use std::sync::Arc;

use identity::{Pod, Workload};
use profile::{Owner, Place};
use sampler::judge::{Ruling, Scope, Subject, Verdict};

use super::Rule;

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    /// Not known yet, or never.
    Unknown,
}

impl From<bool> for Truth {
    fn from(yes: bool) -> Self {
        if yes { Self::Yes } else { Self::No }
    }
}

impl Truth {
    fn or(self, other: impl FnOnce() -> Self) -> Self {
        match self {
            Self::Yes => Self::Yes,
            Self::No => other(),
            Self::Unknown if other() == Self::Yes => Self::Yes,
            Self::Unknown => Self::Unknown,
        }
    }
}

/// What the rules say of a subject whose container is `workload`, as far as that is known.
///
/// They are asked twice: of the process, and of its cgroup without knowing which process it is. Where the second gives an
/// answer, it is the one of every process in there.
pub(super) fn decide(
    include: &[Rule],
    exclude: &[Rule],
    subject: &Subject<'_>,
    workload: Option<&Workload>,
) -> Verdict {
    let facts = Facts { subject, place: place(subject), workload };
    let wanted = |of: &dyn Fn(&Rule) -> Truth| {
        let any = |rules: &[Rule]| rules.iter().fold(Truth::No, |sum, rule| sum.or(|| of(rule)));
        let included = if include.is_empty() { Truth::Yes } else { any(include) };
        match (included, any(exclude)) {
            (Truth::No, _) | (_, Truth::Yes) => Truth::No,
            (Truth::Yes, Truth::No) => Truth::Yes,
            _ => Truth::Unknown,
        }
    };
    let ruling = |yes| if yes { Ruling::Take } else { Ruling::Drop };
    match wanted(&|rule| facts.of_cgroup(rule).unwrap_or(Truth::Unknown)) {
        Truth::Unknown => {}
        decided => return Verdict { ruling: ruling(decided == Truth::Yes), scope: Scope::Cgroup },
    }
    match wanted(&|rule| facts.of_cgroup(rule).unwrap_or_else(|| facts.of_process(rule))) {
        Truth::Unknown => Verdict { ruling: Ruling::Drop, scope: Scope::Undecided },
        decided => Verdict { ruling: ruling(decided == Truth::Yes), scope: Scope::Process },
    }
}

/// Where the kernel's own threads run; they are seldom put anywhere else.
static ROOT: std::sync::LazyLock<Place> = std::sync::LazyLock::new(|| Place { cgroup: "/".into(), ..Place::default() });

fn place<'a>(subject: &Subject<'a>) -> Option<&'a Place> {
    subject.place.or_else(|| subject.kernel_thread.then(|| &*ROOT))
}

struct Facts<'a> {
    subject: &'a Subject<'a>,
    place: Option<&'a Place>,
    workload: Option<&'a Workload>,
}

/// Whether a process runs in a pod or container, and which.
enum In<T> {
    This(T),
    None,
    Unknown,
}

impl Facts<'_> {
    /// What a rule says of everything in the subject's cgroup; none where it depends on the process.
    fn of_cgroup(&self, rule: &Rule) -> Option<Truth> {
        let of_pod = |is: &dyn Fn(&Pod) -> bool| match self.pod() {
            In::This(pod) => is(pod).into(),
            In::None => Truth::No,
            In::Unknown => Truth::Unknown,
        };
        let of_place = |is: &dyn Fn(&Place) -> bool| self.place.map_or(Truth::Unknown, |p| is(p).into());
        Some(match rule {
            Rule::Namespace(glob) => of_pod(&|pod| glob.matches(&pod.namespace)),
            Rule::Pod(glob) => of_pod(&|pod| glob.matches(&pod.name)),
            Rule::PodLabel { key, value } => of_pod(&|pod| pod.label(key).is_some_and(|v| value.matches(v))),
            Rule::Container { name, id } => match self.container() {
                In::This(full) => {
                    let by_id = id.as_ref().is_some_and(|id| full.starts_with(id.as_str()));
                    Truth::from(by_id).or(|| match self.workload.filter(|w| w.complete()) {
                        Some(workload) => workload.container_name.as_ref().is_some_and(|n| name.matches(n)).into(),
                        None => Truth::Unknown,
                    })
                }
                In::None => Truth::No,
                In::Unknown => Truth::Unknown,
            },
            Rule::Cgroup(glob) => of_place(&|place| glob.matches_prefix(&place.cgroup)),
            Rule::Unit(glob) => of_place(&|place| place.unit.as_ref().is_some_and(|unit| glob.matches(unit))),
            Rule::Executable(_) | Rule::Comm(_) | Rule::Service(_) | Rule::KernelThreads => return None,
        })
    }

    /// What a rule that depends on the process says of it.
    fn of_process(&self, rule: &Rule) -> Truth {
        let subject = self.subject;
        match rule {
            Rule::Executable(_) if subject.kernel_thread => Truth::No,
            Rule::Executable(_) if subject.executable_path.is_empty() => Truth::Unknown,
            Rule::Executable(glob) => glob.matches(subject.executable_path).into(),
            Rule::Comm(glob) => glob.matches(subject.comm).into(),
            Rule::KernelThreads => subject.kernel_thread.into(),
            Rule::Service(glob) => self.service().map_or(Truth::Unknown, |name| glob.matches(&name).into()),
            // Not of the process: `of_cgroup` has answered.
            _ => Truth::Unknown,
        }
    }

    /// The id of the container.
    fn container(&self) -> In<&str> {
        let Some(place) = self.place else { return In::Unknown };
        match (&place.container, self.workload) {
            (Some(container), _) => In::This(&container.id),
            // A cgroup that does not look like a container's, but whose runtime says that it is one.
            (None, Some(workload)) => In::This(&workload.container_id),
            (None, None) if is_of_pods(&place.cgroup) => In::Unknown,
            (None, None) => In::None,
        }
    }

    fn pod(&self) -> In<&Pod> {
        let Some(place) = self.place else { return In::Unknown };
        match (self.workload.and_then(|w| w.pod.as_deref()), &place.container) {
            (Some(pod), _) => In::This(pod),
            (None, Some(container)) if container.pod.is_some() => In::Unknown,
            (None, _) if is_of_pods(&place.cgroup) => In::Unknown,
            (None, _) => In::None,
        }
    }

    /// `service.name` as attribution will say it; none while that may change.
    fn service(&self) -> Option<Arc<str>> {
        let subject = self.subject;
        let mut owner = Owner {
            process_name: subject.comm.into(),
            executable_path: subject.executable_path.into(),
            declared: subject.declared.cloned().map(Into::into),
            kernel_thread: subject.kernel_thread,
            ..Owner::default()
        };
        let by_itself = identity::service_name(&owner, None);
        if owner.kernel_thread || !by_itself.starts_with("unknown_service") {
            return Some(by_itself);
        }
        if !subject.declared_known {
            return None;
        }
        let known = match self.container() {
            In::This(_) => self.workload.is_some_and(Workload::complete),
            In::None => true,
            In::Unknown => false,
        };
        owner.place = self.place.cloned().map(Into::into);
        known.then(|| identity::service_name(&owner, self.workload))
    }
}

/// Whether a cgroup is one of Kubernetes' pods or inside one: then it is a container's, also where its name is not
/// understood.
fn is_of_pods(cgroup: &str) -> bool {
    cgroup.split('/').any(|name| name.starts_with("kubepods"))
}
