//! A profile as folded stacks: one line for each stack, `process;root;...;leaf count`.

use std::io;

use profile::Profile;

/// Writes a profile as folded text.
///
/// # Errors
/// What the writer says.
pub fn write(profile: &Profile, out: impl io::Write) -> io::Result<()> {
    let _ = (profile, out);
    Ok(())
}
