//! What the kernel side found out about itself, in this command's words.

use sampler::kernel::{Verdict, probe};

use super::{Item, State};

/// Kernel, BTF, ring buffer, the program itself, events.
pub(super) fn look() -> Vec<Item> {
    probe()
        .findings
        .into_iter()
        .map(|f| Item {
            name: f.what.to_owned(),
            state: match f.verdict {
                Verdict::Good => State::Ok,
                Verdict::Limited => State::Limited,
                Verdict::Bad => State::Fails,
            },
            // A verifier's log has many lines; the first one says what happened.
            seen: f.seen.lines().next().unwrap_or_default().to_owned(),
            remedy: f.remedy,
        })
        .collect()
}
