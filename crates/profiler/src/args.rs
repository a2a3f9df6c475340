//! Long flags with one dash, as older tools and tutorials write them: `-pid=0`, `-pid 0`.
//!
//! **In**: the raw arguments. **Out**: the same, every single-dash form of a long flag with two dashes. What follows
//! `--` belongs to another command and is left alone.

use std::ffi::OsString;

/// Rewrites the arguments. `long` are the long flags' names, without dashes.
pub(crate) fn normalise(args: impl IntoIterator<Item = OsString>, long: &[String]) -> Vec<OsString> {
    let mut verbatim = false;
    args.into_iter()
        .map(|arg| {
            if verbatim || arg == "--" {
                verbatim = true;
                return arg;
            }
            match arg.to_str() {
                Some(text) if is_single_dash_long(text, long) => OsString::from(format!("-{text}")),
                _ => arg,
            }
        })
        .collect()
}

fn is_single_dash_long(arg: &str, long: &[String]) -> bool {
    let Some(rest) = arg.strip_prefix('-') else { return false };
    let name = rest.split('=').next().unwrap_or(rest);
    name.len() > 1 && long.iter().any(|l| l == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(args: &[&str], want: &[&str]) {
        let long: Vec<String> = ["pid", "frequency", "output", "children"].map(str::to_owned).into();
        let got = normalise(args.iter().map(OsString::from), &long);
        assert_eq!(got, want.iter().map(OsString::from).collect::<Vec<_>>());
    }

    #[test]
    fn single_dash_forms() {
        check(&["profiler", "-pid=0"], &["profiler", "--pid=0"]);
        check(&["profiler", "-pid", "7", "-children"], &["profiler", "--pid", "7", "--children"]);
        check(&["profiler", "--pid", "7"], &["profiler", "--pid", "7"]);
    }

    #[test]
    fn everything_else_stays() {
        check(&["p", "-F", "99", "-F99", "-o=x", "-", "-p"], &["p", "-F", "99", "-F99", "-o=x", "-", "-p"]);
        check(&["p", "record", "--", "prog", "-pid=0"], &["p", "record", "--", "prog", "-pid=0"]);
        check(&["p", "-pidx=1", "-unknown"], &["p", "-pidx=1", "-unknown"]);
    }
}
