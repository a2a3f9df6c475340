//! Does a message of OpenTelemetry profiles keep the rules of the data model?
//!
//! The rules are those of the profiling SIG's own `profcheck` and of the comments in `profiles.proto`
//! (opentelemetry-proto 1.10, `v1development`), written down anew. No consumer checks them all, so a sender must.
//!
//! **In**: an export request or stored data. **Out**: a [`Report`]: errors are broken rules, warnings are what a
//! sender SHOULD NOT do (duplicates and orphans in the dictionary). **Limits**: at most [`MAX_FINDINGS`] of each.
#![forbid(unsafe_code)]

mod dictionary;
mod orphans;
mod profiles;

use std::fmt;

use opentelemetry_proto::tonic::collector::profiles::v1development::ExportProfilesServiceRequest;
use opentelemetry_proto::tonic::profiles::v1development::{ProfilesData, ProfilesDictionary, ResourceProfiles};

/// The most findings of each kind that are kept; the rest is counted.
pub const MAX_FINDINGS: usize = 100;

/// What was found in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Broken rules, each with its place in the message.
    pub errors: Vec<String>,
    /// What a sender should not do.
    pub warnings: Vec<String>,
    /// Findings beyond [`MAX_FINDINGS`].
    pub more: usize,
    /// The sum of all samples' values (a timestamp without a value counts one).
    pub samples: u64,
    /// The profiles of the message.
    pub profiles: usize,
}

impl Report {
    /// Whether no rule is broken.
    #[must_use]
    pub fn conforms(&self) -> bool {
        self.errors.is_empty()
    }

    /// Whether no rule is broken and there is nothing to warn of.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.errors.is_empty() && self.warnings.is_empty()
    }

    fn error(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        Self::keep(&mut self.errors, &mut self.more, place, what);
    }

    fn warn(&mut self, place: impl fmt::Display, what: impl fmt::Display) {
        Self::keep(&mut self.warnings, &mut self.more, place, what);
    }

    fn keep(list: &mut Vec<String>, more: &mut usize, place: impl fmt::Display, what: impl fmt::Display) {
        if list.len() < MAX_FINDINGS {
            list.push(format!("{place}: {what}"));
        } else {
            *more += 1;
        }
    }

    /// Notes an error unless `index` is a row of a table of `len` rows; says whether it is.
    fn index(&mut self, place: impl fmt::Display, index: i32, len: usize) -> bool {
        let known = usize::try_from(index).is_ok_and(|i| i < len);
        if !known {
            self.error(place, format_args!("index {index} is out of range [0..{len})"));
        }
        known
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for e in &self.errors {
            writeln!(f, "error: {e}")?;
        }
        for w in &self.warnings {
            writeln!(f, "warning: {w}")?;
        }
        if self.more > 0 {
            writeln!(f, "and {} more", self.more)?;
        }
        write!(f, "{} profiles, {} samples", self.profiles, self.samples)
    }
}

/// Checks an export request.
#[must_use]
pub fn check_request(request: &ExportProfilesServiceRequest) -> Report {
    check(&request.resource_profiles, request.dictionary.as_ref())
}

/// Checks stored data.
#[must_use]
pub fn check_data(data: &ProfilesData) -> Report {
    check(&data.resource_profiles, data.dictionary.as_ref())
}

fn check(resources: &[ResourceProfiles], dictionary: Option<&ProfilesDictionary>) -> Report {
    let mut report = Report::default();
    let Some(dictionary) = dictionary else {
        report.error("dictionary", "missing");
        return report;
    };
    profiles::check(&mut report, resources, dictionary);
    dictionary::check(&mut report, dictionary);
    orphans::check(&mut report, resources, dictionary);
    report
}

#[cfg(test)]
mod tests;
