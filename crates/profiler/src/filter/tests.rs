//! Rules against worlds of processes: examples, and the property that matters: what the kernel side is told equals what
//! each process would be told alone.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use identity::Pod;
use profile::{Container, Declared, PodRef, ProcessKey, Qos, Runtime};
use proptest::prelude::*;
use sampler::judge::{Ruling, Scope};

use super::*;

const TAKE: (Ruling, Scope) = (Ruling::Take, Scope::Cgroup);

#[derive(Debug, Default)]
struct Known {
    workloads: Mutex<HashMap<String, Arc<Workload>>>,
    generation: AtomicU64,
    seen: Mutex<Vec<u32>>,
}

impl Known {
    fn learn(&self, id: &str, workload: Workload) {
        self.workloads.lock().unwrap().insert(id.to_owned(), Arc::new(workload));
        self.generation.fetch_add(1, Ordering::Relaxed);
    }
}

impl Names for Known {
    fn workload(&self, place: &Place) -> Option<Arc<Workload>> {
        let id = place.container.as_ref().map_or(&place.cgroup, |c| &c.id);
        self.workloads.lock().unwrap().get(&**id).cloned()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn seen(&self, _: &Place, tgid: u32) {
        self.seen.lock().unwrap().push(tgid);
    }
}

fn rules(texts: &[&str]) -> Vec<Rule> {
    texts.iter().map(|t| Rule::parse(t).unwrap()).collect()
}

fn filter(include: &[&str], exclude: &[&str]) -> Filter<Known> {
    Filter::new(settings::Filter { include: rules(include), exclude: rules(exclude) }, true, Arc::default())
}

fn host(cgroup: &str) -> Place {
    let unit = cgroup.rsplit('/').next().filter(|u| u.ends_with(".service")).map(Into::into);
    Place { cgroup: cgroup.into(), unit, container: None }
}

const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn in_pod(id: &str) -> Place {
    let pod = Some(PodRef { uid: "u".into(), qos: Qos::Burstable });
    let container = Some(Container { id: id.into(), runtime: Runtime::Containerd, pod });
    Place { cgroup: format!("/kubepods/burstable/podu/{id}").into(), container, unit: None }
}

fn in_docker(id: &str) -> Place {
    let container = Some(Container { id: id.into(), runtime: Runtime::Docker, pod: None });
    Place { cgroup: format!("/docker/{id}").into(), container, unit: None }
}

fn web(namespace: &str, pod: &str, container: Option<&str>) -> Workload {
    let labels = vec![("app".into(), "web".into())];
    let pod = Pod { namespace: namespace.into(), name: pod.into(), labels, ..Pod::default() };
    Workload { container_name: container.map(Into::into), pod: Some(Arc::new(pod)), ..Workload::default() }
}

fn subject<'a>(place: Option<&'a Place>, comm: &'a str, path: &'a str) -> Subject<'a> {
    Subject {
        process: ProcessKey { tgid: 7, leader_start_mono_ns: 1 },
        comm,
        executable_path: path,
        kernel_thread: false,
        cgroup_id: 9,
        place,
        declared: None,
        declared_known: true,
    }
}

fn told(filter: &Filter<Known>, subject: &Subject<'_>) -> (Ruling, Scope) {
    let verdict = filter.judge(subject);
    (verdict.ruling, verdict.scope)
}

#[test]
fn without_rules_nobody_is_asked() {
    assert!(!filter(&[], &[]).filters());
    assert!(filter(&["comm=a"], &[]).filters() && filter(&[], &["comm=a"]).filters());
}

#[test]
fn a_pod_is_left_out_until_its_name_is_known() {
    let filter = filter(&[], &["namespace=shop"]);
    let place = in_pod(ID);
    let pod = subject(Some(&place), "x", "/x");
    assert_eq!(told(&filter, &pod), (Ruling::Drop, Scope::Undecided));
    let before = filter.generation();
    filter.names.learn(ID, web("shop", "web-1", None));
    assert_ne!(filter.generation(), before);
    assert_eq!(told(&filter, &pod), (Ruling::Drop, Scope::Cgroup));
    filter.names.learn(ID, web("bank", "web-1", None));
    assert_eq!(told(&filter, &pod), TAKE);
    let nginx = host("/system.slice/nginx.service");
    assert_eq!(told(&filter, &subject(Some(&nginx), "nginx", "/usr/sbin/nginx")), TAKE);
    let docker = in_docker(ID);
    filter.names.workloads.lock().unwrap().clear();
    assert_eq!(told(&filter, &subject(Some(&docker), "x", "/x")), TAKE, "in no pod, so in no namespace");
}

#[test]
fn pods_labels_and_containers_by_name() {
    let place = in_pod(ID);
    let subject = subject(Some(&place), "x", "/x");
    for (rule, is) in [
        ("namespace=sh*", true),
        ("pod=web-*", true),
        ("pod=db-*", false),
        ("pod_label=app=web", true),
        ("pod_label=app=db", false),
        ("pod_label=tier=web", false),
        ("container=nginx", true),
        ("container=sidecar", false),
        ("container=0123456789ab", true),
        ("container=123456789abc", false),
        ("cgroup=/kubepods", true),
        ("cgroup=/kubepods/besteffort", false),
        ("unit=*", false),
    ] {
        let (include, exclude) = (filter(&[rule], &[]), filter(&[], &[rule]));
        for filter in [&include, &exclude] {
            filter.names.learn(ID, web("shop", "web-1", Some("nginx")));
        }
        let ruling = |yes| if yes { Ruling::Take } else { Ruling::Drop };
        assert_eq!(told(&include, &subject), (ruling(is), Scope::Cgroup), "include {rule}");
        assert_eq!(told(&exclude, &subject), (ruling(!is), Scope::Cgroup), "exclude {rule}");
    }
}

#[test]
fn a_containers_id_needs_no_name_and_its_name_needs_to_be_known() {
    let place = in_docker(ID);
    let subject = subject(Some(&place), "x", "/x");
    assert_eq!(told(&filter(&["container=0123456789ab"], &[]), &subject), TAKE);
    let by_name = filter(&[], &["container=db"]);
    assert_eq!(told(&by_name, &subject), (Ruling::Drop, Scope::Undecided));
    by_name.names.learn(ID, web("shop", "web-1", None));
    assert_eq!(told(&by_name, &subject), (Ruling::Drop, Scope::Undecided), "only its pod is known");
    by_name.names.learn(ID, Workload { container_name: Some("cache".into()), ..Workload::default() });
    assert_eq!(told(&by_name, &subject), TAKE);
    let pause = Workload { is_pause: true, ..web("shop", "web-1", None) };
    by_name.names.learn(ID, pause);
    assert_eq!(told(&by_name, &subject), TAKE, "a sandbox has no name and gets none");
}

#[test]
fn a_runtime_may_know_a_container_that_its_cgroup_does_not_show() {
    let place = host("/default/db");
    let process = subject(Some(&place), "x", "/x");
    let filter = filter(&[], &["container=db", "namespace=shop"]);
    assert_eq!(told(&filter, &process), TAKE);
    filter.names.learn("/default/db", Workload { container_name: Some("db".into()), ..Workload::default() });
    assert_eq!(told(&filter, &process), (Ruling::Drop, Scope::Cgroup));
}

#[test]
fn excluded_wins_over_included() {
    let filter = filter(&["comm=a*", "unit=a.service"], &["executable=*/bad"]);
    let (a, b) = (host("/system.slice/a.service"), host("/system.slice/b.service"));
    assert_eq!(told(&filter, &subject(Some(&a), "x", "/bin/x")), (Ruling::Take, Scope::Process));
    assert_eq!(told(&filter, &subject(Some(&b), "ab", "/bin/x")), (Ruling::Take, Scope::Process));
    assert_eq!(told(&filter, &subject(Some(&b), "b", "/bin/x")), (Ruling::Drop, Scope::Process));
    assert_eq!(told(&filter, &subject(Some(&a), "ab", "/bin/bad")), (Ruling::Drop, Scope::Process));
}

#[test]
fn a_cgroup_is_told_as_a_whole_where_no_process_can_change_it() {
    let filter = filter(&[], &["cgroup=/system.slice/backup.service", "comm=dd"]);
    let (backup, other) = (host("/system.slice/backup.service/sub"), host("/user.slice"));
    assert_eq!(told(&filter, &subject(Some(&backup), "x", "/x")), (Ruling::Drop, Scope::Cgroup));
    assert_eq!(told(&filter, &subject(Some(&other), "x", "/x")), (Ruling::Take, Scope::Process), "dd may run here too");
}

#[test]
fn who_is_not_known_is_left_out() {
    let unknown = subject(None, "x", "");
    for (include, exclude) in
        [(&[][..], &["namespace=a"][..]), (&["unit=a"], &[]), (&[], &["cgroup=/a"]), (&[], &["executable=/a"])]
    {
        assert_eq!(told(&filter(include, exclude), &unknown), (Ruling::Drop, Scope::Undecided));
    }
    assert_eq!(told(&filter(&[], &["comm=y"]), &unknown), (Ruling::Take, Scope::Process));
    let odd = host("/kubepods.slice/kubepods-podu.slice/who-knows");
    let odd = subject(Some(&odd), "x", "/x");
    assert_eq!(told(&filter(&[], &["namespace=a"]), &odd), (Ruling::Drop, Scope::Undecided), "it may be a container");
}

#[test]
fn kernel_threads_run_in_the_root_cgroup() {
    let thread = Subject { kernel_thread: true, ..subject(None, "kworker/0:1", "") };
    assert_eq!(told(&filter(&[], &["namespace=a", "unit=b"]), &thread), TAKE);
    assert_eq!(told(&filter(&[], &["kernel_threads"]), &thread), (Ruling::Drop, Scope::Process));
    assert_eq!(told(&filter(&["kernel_threads"], &[]), &thread), (Ruling::Take, Scope::Process));
    assert_eq!(told(&filter(&[], &["executable=*"]), &thread), (Ruling::Take, Scope::Process));
    assert_eq!(told(&filter(&["service=unknown_service:*"], &[]), &thread).0, Ruling::Take);
}

#[test]
fn services_are_what_attribution_will_call_them() {
    let declared = Declared { service_name: Some("cart".into()), attributes: Vec::new() };
    let (pod, unit) = (in_pod(ID), host("/system.slice/nginx.service"));
    let by_itself = Subject { declared: Some(&declared), ..subject(Some(&pod), "x", "/x") };
    let filter = filter(&["service=cart", "service=nginx", "service=web-*"], &[]);
    assert_eq!(told(&filter, &by_itself), (Ruling::Take, Scope::Process), "also before its pod is known");
    let attributes = vec![("service.name".into(), "cart".into())];
    let unknown = Declared { service_name: Some("unknown_service:java".into()), attributes };
    let by_attribute = Subject { declared: Some(&unknown), ..subject(Some(&pod), "x", "/x") };
    assert_eq!(told(&filter, &by_attribute), (Ruling::Take, Scope::Process));
    let unknown = Declared { attributes: Vec::new(), ..unknown };
    let by_nothing = Subject { declared: Some(&unknown), ..subject(Some(&pod), "x", "/x") };
    assert_eq!(told(&filter, &by_nothing), (Ruling::Drop, Scope::Undecided), "it says that it does not know");
    assert_eq!(told(&filter, &subject(Some(&unit), "x", "/x")), (Ruling::Take, Scope::Process));
    let not_read = Subject { declared_known: false, ..subject(Some(&unit), "x", "/x") };
    assert_eq!(told(&filter, &not_read), (Ruling::Drop, Scope::Undecided), "it may still declare something");
    let never_read =
        Filter { environments: false, rules: filter.rules.clone(), needs_names: true, names: Arc::default() };
    assert_eq!(told(&never_read, &not_read), (Ruling::Take, Scope::Process));
    let by_pod = subject(Some(&pod), "x", "/x");
    assert_eq!(told(&filter, &by_pod), (Ruling::Drop, Scope::Undecided));
    filter.names.learn(ID, web("shop", "web-1", Some("c")));
    assert_eq!(told(&filter, &by_pod), (Ruling::Take, Scope::Process));
}

#[test]
fn names_matter_only_to_rules_that_need_them() {
    let by_name = filter(&[], &["comm=a", "cgroup=/b", "container=0123456789ab"]);
    by_name.names.learn(ID, web("shop", "web-1", None));
    assert_eq!(by_name.generation(), 1, "a container may be called like an id");
    let filter = filter(&[], &["comm=a", "cgroup=/b"]);
    filter.names.learn(ID, web("shop", "web-1", None));
    assert_eq!(filter.generation(), 0);
    filter.seen(&in_pod(ID), 5);
    assert_eq!(*filter.names.seen.lock().unwrap(), [5], "attribution needs them all the same");
}

/// One process of a made-up world.
#[derive(Clone, Debug)]
struct Process {
    cgroup: usize,
    comm: String,
    path: String,
    kernel_thread: bool,
}

fn a_rule() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ab*]{1,2}".prop_map(|g| format!("comm={g}")),
        "[ab*]{1,2}".prop_map(|g| format!("executable=/{g}")),
        "[ab*]{1,2}".prop_map(|g| format!("namespace={g}")),
        "[ab*]{1,2}".prop_map(|g| format!("pod={g}")),
        "[ab*]{1,2}".prop_map(|g| format!("container={g}")),
        (0usize..5).prop_map(|c| format!("cgroup={}", a_cgroup(c).cgroup)),
        "[ab*]{1,2}".prop_map(|g| format!("unit={g}.service")),
        Just("kernel_threads".to_owned()),
    ]
}

fn a_cgroup(number: usize) -> Place {
    match number {
        0 => host("/"),
        1 => host("/system.slice/a.service"),
        2 => in_docker("d"),
        n => in_pod(&format!("p{n}")),
    }
}

fn a_process() -> impl Strategy<Value = Process> {
    (0usize..5, "[ab]{1,2}", "/[ab]{1,2}", any::<bool>()).prop_map(|(cgroup, comm, path, kernel_thread)| Process {
        cgroup,
        comm,
        path: if kernel_thread { String::new() } else { path },
        kernel_thread,
    })
}

/// What the documentation says, with everything known.
fn oracle(rule: &Rule, process: &Process, place: &Place, workload: Option<&Workload>) -> bool {
    let pod = workload.and_then(|w| w.pod.as_ref());
    match rule {
        Rule::Namespace(glob) => pod.is_some_and(|p| glob.matches(&p.namespace)),
        Rule::Pod(glob) => pod.is_some_and(|p| glob.matches(&p.name)),
        Rule::Container { name, .. } => {
            workload.and_then(|w| w.container_name.as_ref()).is_some_and(|n| name.matches(n))
        }
        Rule::Cgroup(glob) => glob.matches_prefix(&place.cgroup),
        Rule::Executable(glob) => !process.kernel_thread && glob.matches(&process.path),
        Rule::Comm(glob) => glob.matches(&process.comm),
        Rule::Unit(glob) => place.unit.as_ref().is_some_and(|u| glob.matches(u)),
        Rule::KernelThreads => process.kernel_thread,
        Rule::PodLabel { .. } | Rule::Service(_) => unreachable!("not generated"),
    }
}

proptest! {
    /// Verdicts go into a map as the kernel side keeps them; names become known on the way. At the end, whatever the map
    /// says of a process is what the rules say of it alone; before, nothing was taken that the rules refuse.
    #[test]
    fn what_the_kernel_is_told_is_true_of_each_process(
        include in proptest::collection::vec(a_rule(), 0..3),
        exclude in proptest::collection::vec(a_rule(), 0..3),
        processes in proptest::collection::vec(a_process(), 1..12),
        names in proptest::collection::vec(("[ab]{1,2}", "[ab]{1,2}", "[ab]{1,2}"), 3),
        known_at in proptest::collection::vec(0usize..24, 3),
        order in proptest::collection::vec(any::<proptest::sample::Index>(), 24),
    ) {
        let texts = |rules: &[String]| rules.iter().map(|r| Rule::parse(r).unwrap()).collect::<Vec<_>>();
        let (include, exclude) = (texts(&include), texts(&exclude));
        let filter = Filter::new(settings::Filter { include: include.clone(), exclude: exclude.clone() }, true, Arc::<Known>::default());
        let places: Vec<Place> = (0..5).map(a_cgroup).collect();
        let final_workload = |cgroup: usize| -> Option<(String, Workload)> {
            let id = places[cgroup].container.as_ref()?.id.to_string();
            let (namespace, pod, container) = &names[cgroup - 2];
            let mut workload = web(namespace, pod, Some(container));
            if cgroup == 2 {
                workload.pod = None;
            }
            Some((id, workload))
        };
        let truth = |process: &Process| {
            let workload = final_workload(process.cgroup).map(|(_, w)| w);
            let is = |rule: &Rule| oracle(rule, process, &places[process.cgroup], workload.as_ref());
            (include.is_empty() || include.iter().any(is)) && !exclude.iter().any(is)
        };
        let mut kernel: HashMap<(usize, usize), Ruling> = HashMap::new();
        for (step, index) in order.iter().enumerate() {
            for cgroup in 2..5 {
                if known_at[cgroup - 2] == step {
                    let (id, workload) = final_workload(cgroup).unwrap();
                    filter.names.learn(&id, workload);
                }
            }
            let number = index.index(processes.len());
            let process = &processes[number];
            let subject = Subject {
                process: ProcessKey { tgid: u32::try_from(number).unwrap() + 1, leader_start_mono_ns: 1 },
                comm: &process.comm,
                executable_path: &process.path,
                kernel_thread: process.kernel_thread,
                cgroup_id: process.cgroup as u64 + 1,
                place: Some(&places[process.cgroup]),
                declared: None,
                declared_known: true,
            };
            let verdict = filter.judge(&subject);
            match verdict.scope {
                Scope::Undecided => prop_assert_eq!(verdict.ruling, Ruling::Drop),
                Scope::Process => { kernel.insert((process.cgroup, number + 1), verdict.ruling); }
                Scope::Cgroup => { kernel.insert((process.cgroup, 0), verdict.ruling); }
            }
            if verdict.scope != Scope::Undecided {
                let want = if truth(process) { Ruling::Take } else { Ruling::Drop };
                prop_assert_eq!(verdict.ruling, want, "{:?} {:?}", process, verdict);
            }
        }
        for (number, process) in processes.iter().enumerate() {
            let found = kernel.get(&(process.cgroup, number + 1)).or_else(|| kernel.get(&(process.cgroup, 0)));
            if let Some(found) = found {
                prop_assert_eq!(*found == Ruling::Take, truth(process), "{:?}", process);
            }
        }
    }
}
