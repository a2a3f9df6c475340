//! A profile as folded stacks: one line for each stack, `process;root;...;leaf count`.
//!
//! **In**: names from targets, which may hold anything. **Out**: lines that every tool for folded stacks splits the
//! same way: `;` in a name becomes `:`, control characters (newlines too) become `?`, leading and trailing blanks
//! go. Equal lines are one, in alphabetical order. **Units**: samples.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;

use profile::Profile;
use profile::named::LocationKind;

/// Writes a profile as folded text.
///
/// # Errors
/// What the writer says.
pub fn write(profile: &Profile, mut out: impl io::Write) -> io::Result<()> {
    for (stack, count) in lines(profile, false) {
        writeln!(out, "{stack} {count}")?;
    }
    Ok(())
}

/// The stacks and their counts. `marked`: kernel frames end in `_[k]`, which flame graphs colour and do not show.
pub(crate) fn lines(profile: &Profile, marked: bool) -> BTreeMap<String, u64> {
    let mut out = BTreeMap::new();
    let names: Vec<String> = (0u32..)
        .zip(&profile.locations)
        .map(|(i, l)| {
            let mut name = String::new();
            // Written from the caller to the inlined, as the whole line is.
            for line in l.lines.iter().rev() {
                let text = profile.functions.get(line.function as usize).map_or("", |f| profile.text(f.name));
                if !name.is_empty() {
                    name.push(';');
                }
                name.push_str(&clean(text));
                if marked && l.kind == LocationKind::Kernel {
                    name.push_str("_[k]");
                }
            }
            if name.is_empty() { clean(profile.location_name(i)).into_owned() } else { name }
        })
        .collect();
    for e in &profile.entries {
        let (Some(owner), Some(stack)) = (profile.owners.get(e.owner as usize), profile.stacks.get(e.stack as usize))
        else {
            continue;
        };
        let mut line = clean(&owner.process_name).into_owned();
        for &l in stack.iter().rev() {
            line.push(';');
            line.push_str(names.get(l as usize).map_or("?", |s| s));
        }
        *out.entry(line).or_insert(0) += e.count;
    }
    out
}

/// A name that splits no line and no stack, never empty.
fn clean(name: &str) -> Cow<'_, str> {
    let name = name.trim();
    if name.is_empty() {
        return Cow::Borrowed("?");
    }
    if !name.contains(|c: char| c == ';' || c.is_control()) {
        return Cow::Borrowed(name);
    }
    let harmless = |c: char| match c {
        ';' => ':',
        c if c.is_control() => '?',
        c => c,
    };
    Cow::Owned(name.chars().map(harmless).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fixture::{Builder, sample};

    fn folded(profile: &Profile) -> String {
        let mut out = Vec::new();
        write(profile, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn processes_of_one_name_are_one_line() {
        assert_eq!(
            folded(&sample(0)),
            "app;_start;main;read;entry;read 10\n\
             app;_start;main;work 80\n\
             gosrv;[cut: no_table];gosrv+0x1234;runtime.mcall 7\n\
             kworker/0:1;kthread;worker_thread 3\n"
        );
    }

    proptest! {
        /// Whatever names hold, a line is a process and the frames, and the counts add up.
        #[test]
        fn names_cannot_split_lines(process in "\\PC*|[;\n\r\u{85} 0-9]*", frame in "\\PC+|[;\n\t 0-9]+", count in 1u64..1000) {
            let owner = Builder::owner(1, &format!("/bin/{}", process.replace('/', "_")), "c");
            let frame = format!("/bin/x!{frame}");
            let text = folded(&Builder::window(0).owned(owner, &[&frame, "main"], count).build());
            prop_assert_eq!(text.lines().count(), 1);
            let (stack, n) = text.trim_end().rsplit_once(' ').unwrap();
            prop_assert_eq!(n.parse::<u64>().unwrap(), count);
            prop_assert_eq!(stack.split(';').count(), 3);
            prop_assert!(stack.split(';').all(|s| !s.is_empty()));
            prop_assert!(!text.trim_end_matches('\n').contains(char::is_control));
        }
    }
}
