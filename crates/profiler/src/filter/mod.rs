//! Whose samples are wanted: the rules of the configuration, and how they are decided.

mod glob;
mod rule;

pub(crate) use glob::MAX_PATTERN_BYTES;
pub(crate) use rule::{MAX_RULES, Rule};
