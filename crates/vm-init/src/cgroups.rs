//! Cgroups as hosts of each kind have them: version 2, version 1, both.

use std::{
    error::Error,
    ffi::CStr,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use sampler::kernel::TickVerdict;
use sampler_abi::{CONTROL_ONLY_LISTED, CONTROL_VERDICTS, CgroupIdParts, VerdictKey};

use crate::{
    machine,
    trials::{self, Outcome},
    workload::{Kind, Running},
};

/// Where a hierarchy is mounted; the folders are made in the machine's memory.
const V2: &CStr = c"/tmp/v2";
const V1: &CStr = c"/tmp/v1";
/// A hierarchy goes some time after its last cgroup.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
/// The number of every hierarchy's root.
const ROOT: u64 = 1;
const CONTROLLERS: [&CStr; 3] = [c"memory", c"pids", c"cpu"];

/// A mounted hierarchy with one cgroup.
struct Hierarchy {
    at: &'static CStr,
    group: PathBuf,
}

impl Hierarchy {
    fn mount(kind: &CStr, at: &'static CStr, controller: Option<&CStr>) -> Result<Self, Box<dyn Error>> {
        let folder = Path::new(std::ffi::OsStr::from_bytes(at.to_bytes()));
        fs::create_dir_all(folder)?;
        patiently(|| machine::mount(kind, at, controller))?;
        let group = folder.join("trial");
        fs::create_dir(&group)?;
        Ok(Self { at, group })
    }

    /// In version 2, or in the first controller that this kernel lets be in version 1. Returns that one's name.
    fn mount_all(v2: bool, v1: bool) -> Result<(Vec<Self>, Option<String>), Box<dyn Error>> {
        let (mut all, mut name) = (Vec::new(), None);
        if v1 {
            for controller in CONTROLLERS {
                if let Ok(hierarchy) = Self::mount(c"cgroup", V1, Some(controller)) {
                    all.push(hierarchy);
                    name = Some(controller.to_str()?.to_owned());
                    break;
                }
            }
            if name.is_none() {
                return Err("no controller can be mounted in version 1".into());
            }
        }
        if v2 {
            all.push(Self::mount(c"cgroup2", V2, None)?);
        }
        Ok((all, name))
    }

    fn unmount(self) -> Result<(), Box<dyn Error>> {
        patiently(|| fs::remove_dir(&self.group))?;
        patiently(|| machine::unmount(self.at))?;
        Ok(())
    }
}

fn patiently(mut what: impl FnMut() -> std::io::Result<()>) -> std::io::Result<()> {
    let end = Instant::now() + PATIENCE;
    loop {
        match what() {
            Err(_) if Instant::now() < end => thread::sleep(PAUSE),
            outcome => return outcome,
        }
    }
}

pub(crate) fn version_2() -> Outcome {
    trial(true, false)
}

pub(crate) fn version_1() -> Outcome {
    trial(false, true)
}

pub(crate) fn both_versions() -> Outcome {
    trial(true, true)
}

/// A process in a cgroup of each hierarchy: its samples carry the number that the paths give, and a verdict about that filters it.
fn trial(v2: bool, v1: bool) -> Outcome {
    let (hierarchies, controller) = Hierarchy::mount_all(v2, v1)?;
    let child = Running::start(Kind::Spin)?;
    for hierarchy in &hierarchies {
        fs::write(hierarchy.group.join("cgroup.procs"), child.tgid().to_string())?;
    }
    let mut side = trials::load(CONTROL_ONLY_LISTED | CONTROL_VERDICTS, vec![child.tgid()])?;
    let ids = side.cgroup_ids();
    if ids.v1_controller() != controller.as_deref() {
        return Err(format!("{controller:?} is in version 1, ids are of {:?}", ids.v1_controller()).into());
    }
    let number = |at: &CStr| {
        let group = hierarchies.iter().find(|hierarchy| hierarchy.at == at).map(|hierarchy| &hierarchy.group);
        group.map_or(Ok(ROOT), |group| fs::metadata(group).map(|group| group.ino()))
    };
    let (of_v2, of_v1) = (number(V2)?, number(V1)?);
    let id = CgroupIdParts { v2: of_v2, v1: v1.then_some(of_v1) }.id();
    let verdicts = side.verdicts();
    side.attach()?;
    let (mut records, mut right, mut wrong) = (0usize, 0usize, 0usize);
    let mut example = 0;
    let mut look = |cgroup_id: u64| {
        if cgroup_id == id {
            right += 1;
        } else {
            wrong += 1;
            example = cgroup_id;
        }
    };
    trials::sample(&mut side, |sample| {
        records += 1;
        look(sample.head.cgroup_id);
    });
    if !verdicts.set(VerdictKey::cgroup(id), TickVerdict::Filter)? {
        return Err("no room for a verdict".into());
    }
    // What was under way at that moment.
    thread::sleep(PAUSE);
    while side.drain(|_| records += 1) > 0 {}
    let before = side.counters().read()?.total();
    let mut crossed = 0usize;
    trials::sample(&mut side, |_| {
        records += 1;
        crossed += 1;
    });
    let after = side.counters().read()?.total();
    verdicts.remove(VerdictKey::cgroup(id))?;
    let mut again = 0usize;
    trials::sample(&mut side, |_| {
        records += 1;
        again += 1;
    });
    trials::finish(&mut side, &mut records, |_| {})?;
    drop(side);
    child.end()?;
    for hierarchy in hierarchies {
        hierarchy.unmount()?;
    }
    let filtered = after.filtered - before.filtered;
    let enough = trials::ENOUGH;
    if wrong > 0 || right < enough || crossed > 0 || filtered < enough as u64 || again < enough {
        return Err(format!(
            "id {id:x}: right {right}, wrong {wrong} ({example:x}); filtered {filtered}, crossed {crossed}; again {again}"
        )
        .into());
    }
    Ok(format!(
        "{} has id {id:x}; filtered {filtered}, none crossed the ring; {} ns a filtered tick",
        controller.as_deref().unwrap_or("version 2"),
        (after.filtered_ns - before.filtered_ns) / filtered.max(1),
    ))
}
