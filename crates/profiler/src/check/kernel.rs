//! What the kernel side found out about itself, in this command's words.

use sampler::kernel::{Verdict, probe};

use super::{Item, State};

/// Unwind tables, in the words of [`probe`].
const TABLES: &str = "unwind tables";

/// Kernel, BTF, ring buffer, the program itself, events. `tables`: they are wanted.
pub(super) fn look(tables: bool) -> Vec<Item> {
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
        .map(|item| {
            if item.name == TABLES && !tables {
                Item::ok(TABLES, format!("off by unwind.tables; else: {}", item.seen))
            } else {
                item
            }
        })
        .collect()
}
