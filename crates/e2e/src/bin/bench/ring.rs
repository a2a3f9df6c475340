//! The ring buffer of a machine that is not here, in simulated time: CPUs write records, a reader comes late.
//!
//! **In**: what was measured of one record. **Out**: samples lost, the smallest ring that loses none. **Units**: bytes, nanoseconds,
//! steps of a millisecond. **Limits**: no clock, no randomness that differs from run to run.

/// The reader is woken when this part of the ring is full.
const WAKE_SHARE: u64 = 8;
/// And at the latest after so many milliseconds.
const LONGEST_MS: u64 = 200;
/// Simulated: long enough for every phase of reader and writers to meet.
const LASTING_MS: u64 = 30_000;
/// The sizes that the agent takes.
const RINGS: std::ops::RangeInclusive<u32> = 16..=30;

/// Who writes, and what.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writers {
    pub(crate) cpus: u64,
    pub(crate) hz: u64,
    /// Bytes of a record whose stack was walked.
    pub(crate) walked_bytes: u64,
    /// Bytes of a record that carries a snapshot.
    pub(crate) snapshot_bytes: u64,
    /// Records of a thousand that carry one.
    pub(crate) snapshots_permille: u64,
}

/// Who reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reader {
    /// Nanoseconds for one record, whatever it carries.
    pub(crate) record_ns: u64,
    /// What passes between waking it and its first record: all CPUs are busy.
    pub(crate) delay_ms: u64,
}

/// The other numbers of a simulated run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) lost: u64,
    pub(crate) most_bytes: u64,
    /// Times that the reader was woken in a second.
    pub(crate) wakes_a_second: u64,
    /// The reader had read everything at least once in the second half: it is quicker than the writers.
    pub(crate) keeps_up: bool,
}

/// One run with a ring of so many bytes.
pub(crate) fn run(ring: u64, writers: &Writers, reader: &Reader) -> Run {
    let mut run = Run::default();
    let mut waiting: std::collections::VecDeque<u64> = std::collections::VecDeque::new();
    let (mut bytes, mut due, mut random, mut wakes) = (0u64, 0u64, 1u64, 0u64);
    let (mut asleep_since, mut begins) = (0u64, None);
    for now in 0..LASTING_MS {
        // Timers of different CPUs are not aligned; in a millisecond they are.
        due += writers.cpus * writers.hz;
        while due >= 1000 {
            due -= 1000;
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let carries = (random >> 33) % 1000 < writers.snapshots_permille;
            let size = if carries { writers.snapshot_bytes } else { writers.walked_bytes };
            if bytes + size > ring {
                run.lost += 1;
                continue;
            }
            bytes += size;
            waiting.push_back(size);
        }
        run.most_bytes = run.most_bytes.max(bytes);
        let Some(at) = begins else {
            if bytes >= ring / WAKE_SHARE || now - asleep_since >= LONGEST_MS {
                begins = Some(now + reader.delay_ms);
                wakes += 1;
            }
            continue;
        };
        if now < at {
            continue;
        }
        let mut left_ns = 1_000_000u64;
        while left_ns >= reader.record_ns {
            let Some(size) = waiting.pop_front() else { break };
            left_ns -= reader.record_ns;
            bytes -= size;
        }
        if waiting.is_empty() {
            (begins, asleep_since) = (None, now);
            run.keeps_up |= now > LASTING_MS / 2;
        }
    }
    run.wakes_a_second = wakes * 1000 / LASTING_MS;
    run
}

/// The smallest ring that loses nothing, and its run; none where no ring is large enough: the reader does not keep up.
pub(crate) fn smallest(writers: &Writers, reader: &Reader) -> Option<(u64, Run)> {
    RINGS
        .map(|bits| 1u64 << bits)
        .map(|ring| (ring, run(ring, writers, reader)))
        .find(|(_, run)| run.lost == 0 && run.keeps_up)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITERS: Writers =
        Writers { cpus: 128, hz: 1000, walked_bytes: 500, snapshot_bytes: 16_000, snapshots_permille: 5 };

    #[test]
    fn a_ring_holds_what_comes_while_the_reader_is_late() {
        let reader = Reader { record_ns: 1000, delay_ms: 50 };
        let (ring, found) = smallest(&WRITERS, &reader).unwrap();
        // What comes in 50 ms must fit beside the part at which the reader was woken.
        let in_delay = 128 * 50 * (500 * 995 + 16_000 * 5) / 1000;
        assert!(ring * 7 / 8 > in_delay && ring / 4 < in_delay * 2, "{ring} for {in_delay}");
        assert!(found.most_bytes <= ring && found.most_bytes > in_delay, "{found:?}");
        assert!(run(ring / 2, &WRITERS, &reader).lost > 0);
    }

    #[test]
    fn no_ring_helps_a_reader_that_is_too_slow() {
        assert_eq!(smallest(&WRITERS, &Reader { record_ns: 10_000, delay_ms: 1 }), None);
    }

    #[test]
    fn a_quiet_machine_wakes_the_reader_five_times_a_second() {
        let quiet = Writers { cpus: 2, hz: 19, ..WRITERS };
        let run = run(8 << 20, &quiet, &Reader { record_ns: 1000, delay_ms: 0 });
        assert!((4..=5).contains(&run.wakes_a_second) && run.lost == 0, "{run:?}");
    }
}
