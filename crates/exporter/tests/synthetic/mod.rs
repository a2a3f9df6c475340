//! Profiles made up for tests and for the example page.
#![allow(unreachable_pub, dead_code, clippy::expect_used, reason = "shared by several test targets")]

use std::sync::Arc;

use profile::named::{Entry, Function, Line, Location, LocationKind, Mapping, Profile};
use profile::{BuildId, Container, Identity, Owner, Place, ProcessKey, Runtime, Span};

/// One frame: name, file, kind.
pub type Frame<'a> = (&'a str, &'a str, LocationKind);

/// Builds a profile row by row; equal rows are one.
#[derive(Default)]
pub struct Maker {
    profile: Profile,
    place: Option<Arc<Place>>,
    identity: Option<Arc<Identity>>,
}

impl Maker {
    /// A window of `seconds` from `from_s` on, on both clocks (Unix time starts at `epoch_s`).
    pub fn new(epoch_s: u64, from_s: u64, seconds: u64) -> Self {
        const SECOND: u64 = 1_000_000_000;
        let span = Span {
            from_mono_ns: from_s * SECOND,
            to_mono_ns: (from_s + seconds) * SECOND,
            from_unix_ns: (epoch_s + from_s) * SECOND,
            to_unix_ns: (epoch_s + from_s + seconds) * SECOND,
        };
        let profile = Profile { span, period_ns: 10_101_010, strings: vec![Arc::from("")], ..Profile::default() };
        Self { profile, ..Self::default() }
    }

    /// What is added from now on runs in a container, by namespace, pod, name and service; empty names are none.
    pub fn within(&mut self, [namespace, pod, container, service]: [&str; 4]) -> &mut Self {
        let id = format!(
            "{:0>64}",
            format!("{namespace}{pod}{container}").bytes().map(|b| format!("{b:x}")).collect::<String>()
        );
        let container_of =
            Container { id: id.get(..64).unwrap_or_default().into(), runtime: Runtime::Containerd, pod: None };
        self.place = Some(Arc::new(Place { container: Some(container_of), ..Place::default() }));
        let attributes = [("k8s.container.name", container), ("k8s.namespace.name", namespace), ("k8s.pod.name", pod)];
        let attributes = attributes.into_iter().filter(|(_, name)| !name.is_empty());
        let attributes = attributes.map(|(key, name)| (Arc::from(key), Arc::from(name))).collect();
        self.identity = Some(Arc::new(Identity { service_name: Arc::from(service), attributes }));
        self
    }

    /// What is added from now on runs in no container.
    pub fn outside(&mut self) -> &mut Self {
        self.place = None;
        self.identity = None;
        self
    }

    /// Counts samples of one stack, outermost frame first; `process` is its name and pid, `thread` its comm.
    pub fn add(&mut self, process: (&str, u32), thread: &str, stack: &[Frame<'_>], count: u64) -> &mut Self {
        let executable_path = stack
            .iter()
            .find(|(_, _, kind)| *kind == LocationKind::Native)
            .map_or_else(String::new, |_| format!("/usr/bin/{}", process.0));
        let owner = Arc::new(Owner {
            process: ProcessKey { tgid: process.1, leader_start_mono_ns: 1 },
            comm: Arc::from(thread),
            process_name: Arc::from(process.0),
            kernel_thread: executable_path.is_empty(),
            executable_path: Arc::from(executable_path),
            place: self.place.clone(),
            identity: self.identity.clone(),
            ..Owner::default()
        });
        let stack: Box<[u32]> = stack.iter().rev().map(|frame| self.location(*frame)).collect();
        let p = &mut self.profile;
        let owner = put(&mut p.owners, owner);
        p.owner_mappings.resize(p.owners.len(), None);
        let stack = put(&mut p.stacks, stack);
        match p.entries.iter_mut().find(|e| e.owner == owner && e.stack == stack) {
            Some(entry) => entry.count += count,
            None => p.entries.push(Entry { owner, stack, count, times_unix_ns: Vec::new() }),
        }
        self
    }

    fn location(&mut self, (name, file, kind): Frame<'_>) -> u32 {
        let p = &mut self.profile;
        let mapping = (!file.is_empty()).then(|| {
            let path = put(&mut p.strings, Arc::from(file));
            let kernel = kind == LocationKind::Kernel;
            let build_id = BuildId { gnu: format!("{:040x}", file.len()), ..BuildId::default() };
            let mapping = Mapping { path, build_id, memory_start: 0, memory_limit: 1 << 24, file_offset: 0, kernel };
            put(&mut p.mappings, mapping)
        });
        let text = put(&mut p.strings, Arc::from(name));
        let function = put(&mut p.functions, Function { name: text, system_name: text, file: 0 });
        // One place per function: the function's number stands for its address.
        let address = if kind == LocationKind::Cut { 0 } else { 0x1000 + u64::from(function) * 0x40 };
        let named = kind != LocationKind::Cut && !name.contains("+0x");
        put(
            &mut p.locations,
            Location { mapping, address, lines: std::iter::once(Line { function, line: 0 }).collect(), kind, named },
        )
    }

    /// The profile.
    pub fn build(&mut self) -> Arc<Profile> {
        self.profile.check().expect("a profile that every sink can rely on");
        Arc::new(std::mem::take(&mut self.profile))
    }
}

fn put<T: PartialEq>(rows: &mut Vec<T>, row: T) -> u32 {
    let place = rows.iter().position(|known| *known == row).unwrap_or_else(|| {
        rows.push(row);
        rows.len() - 1
    });
    u32::try_from(place).expect("few rows")
}
