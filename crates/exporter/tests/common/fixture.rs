//! Profiles for tests, built from short rows.
#![allow(
    unreachable_pub,
    missing_docs,
    dead_code,
    clippy::unwrap_used,
    reason = "shared by unit and integration tests"
)]

use std::sync::Arc;

use profile::named::{Entry, Function, Line, Location, LocationKind, Mapping};
use profile::{BuildId, Container, Identity, Owner, Place, ProcessKey, Profile, Runtime, Span};

/// 2026-11-22T14:00:00Z.
pub const NOON_NS: u64 = 1_795_356_000_000_000_000;
/// Five seconds.
pub const WINDOW_NS: u64 = 5_000_000_000;

/// A profile that grows row by row.
pub struct Builder {
    profile: Profile,
}

impl Builder {
    /// The `n`th base window.
    pub fn window(n: u64) -> Self {
        let from = NOON_NS + n * WINDOW_NS;
        let profile = Profile {
            span: Span {
                from_mono_ns: n * WINDOW_NS,
                to_mono_ns: (n + 1) * WINDOW_NS,
                from_unix_ns: from,
                to_unix_ns: from + WINDOW_NS,
            },
            period_ns: 10_000_000,
            strings: vec!["".into()],
            ..Profile::default()
        };
        Self { profile }
    }

    pub fn text(&mut self, text: &str) -> u32 {
        let at = self.profile.strings.iter().position(|s| &**s == text).unwrap_or_else(|| {
            self.profile.strings.push(text.into());
            self.profile.strings.len() - 1
        });
        u32::try_from(at).unwrap()
    }

    pub fn mapping(&mut self, path: &str) -> u32 {
        let path_index = self.text(path);
        let kernel = path == "[kernel]";
        let mapping = Mapping {
            path: path_index,
            build_id: if kernel {
                BuildId::default()
            } else {
                BuildId {
                    gnu: if path.contains("go") { String::new() } else { "abcdef01".into() },
                    go: if path.contains("go") { "go/build/id".into() } else { String::new() },
                    htlhash: "00112233445566778899aabbccddeeff".into(),
                }
            },
            memory_start: if kernel { 0 } else { 0x1000 },
            memory_limit: if kernel { 0 } else { 0x9000 },
            file_offset: if kernel { 0 } else { 0x1000 },
            kernel,
        };
        let at = self.profile.mappings.iter().position(|m| *m == mapping).unwrap_or_else(|| {
            self.profile.mappings.push(mapping);
            self.profile.mappings.len() - 1
        });
        u32::try_from(at).unwrap()
    }

    /// A frame: `name` is in `[kernel]` where it begins with `k:`, a cut where with `cut:`, unnamed where it holds
    /// `+0x`; else `path!name`, or `name` in the owner's executable.
    fn location(&mut self, text: &str, executable: &str) -> u32 {
        let (path, name, kind) = if let Some(name) = text.strip_prefix("k:") {
            (Some("[kernel]"), name, LocationKind::Kernel)
        } else if let Some(name) = text.strip_prefix("cut:") {
            (None, name, LocationKind::Cut)
        } else if let Some((path, name)) = text.split_once('!') {
            (Some(path), name, LocationKind::Native)
        } else {
            (Some(executable).filter(|e| !e.is_empty()), text, LocationKind::Native)
        };
        let mapping = path.map(|p| self.mapping(p));
        let name_index = self.text(name);
        let function = Function { name: name_index, system_name: name_index, file: 0 };
        let at = self.profile.functions.iter().position(|f| *f == function).unwrap_or_else(|| {
            self.profile.functions.push(function);
            self.profile.functions.len() - 1
        });
        let function = u32::try_from(at).unwrap();
        let location = Location {
            mapping,
            address: if kind == LocationKind::Cut { 0 } else { 0x1000 + u64::from(function) * 16 },
            lines: std::iter::once(Line { function, line: 0 }).collect(),
            kind,
            named: !name.contains("+0x"),
        };
        let at = self.profile.locations.iter().position(|l| *l == location).unwrap_or_else(|| {
            self.profile.locations.push(location);
            self.profile.locations.len() - 1
        });
        u32::try_from(at).unwrap()
    }

    /// The place of a container.
    pub fn place(container: &str) -> Option<Arc<Place>> {
        let container = Container { id: container.into(), runtime: Runtime::Containerd, pod: None };
        Some(Arc::new(Place { container: Some(container), ..Place::default() }))
    }

    /// Who a process is.
    pub fn identity(service: &str, attributes: &[(&str, &str)]) -> Option<Arc<Identity>> {
        let mut attributes: Vec<(Arc<str>, Arc<str>)> =
            attributes.iter().map(|&(k, v)| (Arc::from(k), Arc::from(v))).collect();
        attributes.sort();
        Some(Arc::new(Identity { service_name: service.into(), attributes }))
    }

    pub fn owner(tgid: u32, executable: &str, comm: &str) -> Owner {
        Owner {
            process: ProcessKey { tgid, leader_start_mono_ns: 7 },
            comm: comm.into(),
            process_name: executable.rsplit('/').next().filter(|s| !s.is_empty()).unwrap_or(comm).into(),
            executable_path: executable.into(),
            kernel_thread: executable.is_empty(),
            ..Owner::default()
        }
    }

    /// Adds `count` samples of a stack, leaf first, of a process.
    pub fn row(self, tgid: u32, executable: &str, stack: &[&str], count: u64) -> Self {
        let comm = executable.rsplit('/').next().filter(|s| !s.is_empty()).unwrap_or("kworker/0:1").to_owned();
        self.owned(Self::owner(tgid, executable, &comm), stack, count)
    }

    pub fn owned(mut self, owner: Owner, stack: &[&str], count: u64) -> Self {
        let executable = owner.executable_path.to_string();
        let mapping = (!executable.is_empty()).then(|| self.mapping(&executable));
        let stack: Box<[u32]> = stack.iter().map(|f| self.location(f, &executable)).collect();
        let p = &mut self.profile;
        let owner_at = p.owners.iter().position(|o| **o == owner).unwrap_or_else(|| {
            p.owners.push(Arc::new(owner));
            p.owner_mappings.push(mapping);
            p.owners.len() - 1
        });
        let stack_at = p.stacks.iter().position(|s| *s == stack).unwrap_or_else(|| {
            p.stacks.push(stack);
            p.stacks.len() - 1
        });
        let (owner, stack) = (u32::try_from(owner_at).unwrap(), u32::try_from(stack_at).unwrap());
        match p.entries.iter_mut().find(|e| e.owner == owner && e.stack == stack) {
            Some(e) => e.count += count,
            None => p.entries.push(Entry { owner, stack, count, times_unix_ns: vec![] }),
        }
        self
    }

    /// Gives every sample a time, spread over the window.
    pub fn timed(mut self) -> Self {
        let from = self.profile.span.from_unix_ns;
        for e in &mut self.profile.entries {
            e.times_unix_ns = (0..e.count).map(|i| from + i * WINDOW_NS / e.count).collect();
        }
        self
    }

    pub fn build(self) -> Profile {
        self.profile.check().unwrap();
        self.profile
    }
}

/// Two processes of one executable, one of another, a kernel thread; named, unnamed and cut stacks.
pub fn sample(n: u64) -> Profile {
    Builder::window(n)
        .row(10, "/usr/bin/app", &["work", "main", "_start"], 60)
        .row(11, "/usr/bin/app", &["work", "main", "_start"], 20)
        .row(10, "/usr/bin/app", &["k:read", "k:entry", "/lib/libc.so!read", "main", "_start"], 10)
        .row(12, "/usr/bin/gosrv", &["runtime.mcall", "gosrv+0x1234", "cut:[cut: no_table]"], 7)
        .row(2, "", &["k:worker_thread", "k:kthread"], 3)
        .build()
}
