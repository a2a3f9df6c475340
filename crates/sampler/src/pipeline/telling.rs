//! What the thread of tables is told: who runs with which mappings, who has ended, which files samples needed.

use profile::{Frame, Window};
use rustc_hash::FxHashSet;
use sampler_abi::{FLAG_COMPAT, FLAG_USER_REGS, SampleHead};

use super::Pipeline;
use crate::proc_scan::ProcSource;
use crate::process::{Change, Process, Standing};
use crate::source::ObjectSource;
use crate::tables::{Desk, Mapped, Why};
use crate::unwinding::{UserHalf, Waiting};
use crate::walked::Published;

/// Mappings of one process that are looked through for the files of a stack.
const LOOKED_THROUGH: usize = 4096;

impl<O: ObjectSource, P: ProcSource> Pipeline<O, P> {
    /// Sends what this batch brought.
    pub(super) fn tell(&mut self, windows: &[Window]) {
        if !self.desk.is_open() {
            return;
        }
        let (desk, published, verdicts) = (&mut self.desk, &mut self.walks.published, &self.verdicts);
        let now = self.unsettled.now_mono_ns;
        // Of whom no sample is to be expected, nothing is prepared.
        let is_expected = |standing: Standing| standing.is_listed && !verdicts.refuses(standing.cgroup_id);
        self.table.take_changes(|tgid, change| match change {
            Change::Ended => {
                published.withdrawn(tgid, now);
                desk.gone(tgid);
            }
            Change::Mapped { process, executed } => {
                let why = if executed && is_expected(process.standing) { Why::Executed } else { Why::Changed };
                hand_on(desk, published, process, why, now);
            }
        });
        self.table.preview(self.merge.waiting(), |preview| {
            if is_expected(preview.standing) {
                published.handed_on(preview.tgid, &preview.maps, now);
                desk.mapped(Mapped::ahead(preview));
            }
        });
        published.expire(now);
        for window in windows {
            desk.window(window);
        }
        let table = &self.table;
        desk.send(|| table.running_tgids());
    }

    /// A sample that the kernel could not unwind has been unwound: the files that its stack led through are wanted.
    pub(super) fn want_files(&mut self, waiting: &Waiting) {
        let (UserHalf::Snapshot(entries), Some(maps)) = (&waiting.user, &waiting.maps) else { return };
        if !self.desk.is_open() || waiting.check.is_some() {
            return;
        }
        let objects: FxHashSet<_> = self
            .frames
            .iter()
            .filter_map(|frame| if let Frame::Object { object, .. } = frame { Some(*object) } else { None })
            .collect();
        for object in objects {
            let is_of_it = |entry: &profile::MapEntry| entry.object == Some(object);
            let index = entries.iter().take(LOOKED_THROUGH).position(is_of_it);
            if let Some(mapping) = index.and_then(|index| maps.list().get(index)) {
                self.desk.wanted(&mapping.file);
            }
        }
    }
}

/// A sample was taken of a process. Where it was not walked with the mappings that the process has, it is told of once more.
pub(super) fn sampled(desk: &mut Desk, published: &mut Published, head: &SampleHead, process: &Process, now: u64) {
    let can_be_walked = head.flags & FLAG_USER_REGS != 0 && head.flags & FLAG_COMPAT == 0;
    if desk.is_open()
        && can_be_walked
        && head.mappings_serial != process.maps.serial()
        && process.is_running()
        && !process.maps.list().is_empty()
    {
        hand_on(desk, published, process, Why::Sampled, now);
    }
}

fn hand_on(desk: &mut Desk, published: &mut Published, process: &Process, why: Why, now: u64) {
    published.handed_on(process.tgid, &process.maps, now);
    desk.mapped(Mapped::of(process, why));
}
