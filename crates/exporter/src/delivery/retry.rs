//! How long to wait before the next attempt: doubling, with jitter, never less than the server asks.

use std::time::Duration;

use super::settings::RetrySettings;

/// The wait after the `failures`th failure in a row (from 1). `jitter` is from 0 up to, but not including, 1: it
/// spreads the wait from half to one and a half of its nominal length.
pub(crate) fn wait(settings: &RetrySettings, failures: u32, asked: Option<Duration>, jitter: f64) -> Duration {
    let doublings = failures.saturating_sub(1).min(31);
    let nominal = settings.initial.saturating_mul(1 << doublings).min(settings.max);
    let jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { 0.5 };
    nominal.mul_f64(0.5 + jitter).max(asked.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn doubles_to_the_maximum() {
        let s = RetrySettings::default();
        let waits: Vec<_> = (1..=8).map(|n| wait(&s, n, None, 0.5).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(wait(&s, 1, None, 0.0), Duration::from_millis(500));
    }

    proptest! {
        #[test]
        fn stays_in_its_range(failures in 0u32.., jitter: f64, asked in proptest::option::of(0u64..1000)) {
            let s = RetrySettings::default();
            let asked = asked.map(Duration::from_secs);
            let w = wait(&s, failures, asked, jitter);
            prop_assert!(w >= s.initial / 2 && w >= asked.unwrap_or_default());
            prop_assert!(w <= (s.max * 3 / 2).max(asked.unwrap_or_default()));
        }
    }
}
