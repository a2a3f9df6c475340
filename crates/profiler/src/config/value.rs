//! Texts into values: durations, byte counts, truth values, addresses.
//!
//! **In**: text from flags, variables and files. **Out**: values, or what is wrong, to stand behind the value's origin.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

/// A duration: `250ms`, `10s`, `2m`, `1h`, combined as `1m30s`; a bare number counts `unit`s.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn duration(text: &str, unit: Duration) -> Result<Duration, String> {
    let bad = || "is not a duration: write for example 500ms, 10s or 2m".to_owned();
    let text = text.trim();
    if let Ok(n) = text.parse::<u32>() {
        return unit.checked_mul(n).ok_or_else(bad);
    }
    if text.is_empty() {
        return Err(bad());
    }
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (name, tail) = tail.split_at(letters);
        let seconds = match name {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(bad()),
        };
        let number: f64 = number.parse().map_err(|_| bad())?;
        total =
            Duration::try_from_secs_f64(number * seconds).ok().and_then(|d| total.checked_add(d)).ok_or_else(bad)?;
        rest = tail;
    }
    Ok(total)
}

/// A duration as [`duration`] reads it, in the largest unit that it is a whole number of.
pub(crate) fn show_duration(d: Duration) -> String {
    let (ms, s) = (d.as_millis(), d.as_secs());
    match s {
        _ if ms != u128::from(s) * 1000 => format!("{ms}ms"),
        1.. if s.is_multiple_of(3600) => format!("{}h", s / 3600),
        1.. if s.is_multiple_of(60) => format!("{}m", s / 60),
        _ => format!("{s}s"),
    }
}

/// A number of bytes: `65536`, `64KiB`, `16MiB`, `1GiB`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let bad = || "is not a number of bytes: write for example 65536, 64KiB or 16MiB".to_owned();
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" | "k" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(bad()),
    };
    number.parse::<u64>().ok().and_then(|n| n.checked_mul(scale)).ok_or_else(bad)
}

/// A byte count as [`bytes`] reads it.
pub(crate) fn show_bytes(n: u64) -> String {
    for (scale, unit) in [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")] {
        if n >= scale && n.is_multiple_of(scale) {
            return format!("{}{unit}", n / scale);
        }
    }
    n.to_string()
}

/// `true` or `false`, in any case.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn boolean(text: &str) -> Result<bool, String> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// A whole number between two others, both included.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn between<T: FromStr + PartialOrd + std::fmt::Display>(
    text: &str,
    what: &str,
    low: T,
    high: T,
) -> Result<T, String> {
    match text.trim().parse::<T>() {
        Ok(n) if low <= n && n <= high => Ok(n),
        _ => Err(format!("is not {what}: {low} to {high}")),
    }
}

/// Where to listen: `ADDRESS:PORT`, `[ADDRESS]:PORT` or `:PORT` for every address.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn listen(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let full =
        if text.starts_with(':') { format!("0.0.0.0{text}") } else { text.replacen("localhost:", "127.0.0.1:", 1) };
    full.parse().map_err(|_| "is not ADDRESS:PORT: write for example 127.0.0.1:2112, [::1]:2112 or :2112".to_owned())
}

/// The items of a list: texts with commas between them. A comma that belongs to an item has a backslash before it, and
/// so has a backslash before a comma. Empty items are none.
pub(crate) fn list(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        match (c, rest.peek(), items.last_mut()) {
            ('\\', Some(&next @ (',' | '\\')), Some(item)) => {
                item.push(next);
                rest.next();
            }
            (',', _, _) => items.push(String::new()),
            (c, _, Some(item)) => item.push(c),
            (_, _, None) => {}
        }
    }
    items.iter().map(|i| i.trim().to_owned()).filter(|i| !i.is_empty()).collect()
}

/// Items as [`list`] reads them.
pub(crate) fn show_list<T: ToString>(items: &[T]) -> String {
    items.iter().map(|i| escape_item(&i.to_string())).collect::<Vec<_>>().join(",")
}

/// One item of a [`list`].
pub(crate) fn escape_item(item: &str) -> String {
    item.replace('\\', "\\\\").replace(',', "\\,")
}

/// Process ids: numbers with commas between them. 0, alone, stands for every process: an empty list.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn pids(text: &str) -> Result<Vec<u32>, String> {
    const HIGHEST: u32 = 1 << 22;
    let mut out = Vec::new();
    for part in text.split(',') {
        out.push(between(part, "a process id", 0, HIGHEST)?);
    }
    out.sort_unstable();
    out.dedup();
    match out.as_slice() {
        [0] => Ok(Vec::new()),
        [0, ..] => Err("names process 0, which stands for every process, beside others".to_owned()),
        _ => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        let s = Duration::from_secs(1);
        for (text, ms) in
            [("10s", 10_000), ("500ms", 500), ("2m", 120_000), ("1m30s", 90_000), ("7", 7000), ("0.5s", 500)]
        {
            assert_eq!(duration(text, s), Ok(Duration::from_millis(ms)), "{text}");
        }
        for text in ["", "s", "10x", "-1s", "1..2s", "99999999999999999999s", "10 s x", "1e400s"] {
            assert!(duration(text, s).is_err(), "{text}");
        }
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
    }

    #[test]
    fn byte_counts() {
        assert_eq!(bytes("64KiB"), Ok(65536));
        assert_eq!(bytes("123"), Ok(123));
        assert!(bytes("12QB").is_err() && bytes("").is_err() && bytes("99999999999GiB").is_err());
        assert_eq!(show_bytes(16 << 20), "16MiB");
        assert_eq!(show_bytes(1025), "1025");
    }

    #[test]
    fn addresses_and_pids() {
        assert_eq!(listen(":2112").unwrap().to_string(), "0.0.0.0:2112");
        assert_eq!(listen("localhost:1").unwrap().to_string(), "127.0.0.1:1");
        assert_eq!(listen("[::1]:5").unwrap().to_string(), "[::1]:5");
        assert!(listen("2112").is_err() && listen("host:x").is_err() && listen("1.2.3.4:70000").is_err());
        assert_eq!(pids("0"), Ok(vec![]));
        assert_eq!(pids("7,5,7"), Ok(vec![5, 7]));
        assert!(pids("0,5").is_err() && pids("-1").is_err() && pids("x").is_err() && pids("").is_err());
    }

    #[test]
    fn lists() {
        assert_eq!(list("a, b ,,c"), ["a", "b", "c"]);
        assert_eq!(list(r"a\,b,c\\,d\e"), ["a,b", r"c\", r"d\e"]);
        assert_eq!(list(""), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn lists_read_back(items in proptest::collection::vec("[a-z,\\\\=*]{1,6}", 0..5)) {
            prop_assert_eq!(list(&show_list(&items)), items);
        }

        #[test]
        fn garbage_never_panics(text in "\\PC{0,20}") {
            let _ = (duration(&text, Duration::from_secs(1)), bytes(&text), listen(&text), pids(&text));
        }

        #[test]
        fn shown_values_read_back(n in 0u64..1 << 40, ms in 0u64..1_000_000_000) {
            prop_assert_eq!(bytes(&show_bytes(n)), Ok(n));
            let d = Duration::from_millis(ms);
            prop_assert_eq!(duration(&show_duration(d), Duration::from_secs(1)), Ok(d));
        }
    }
}
