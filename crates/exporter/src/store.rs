//! The published base windows of the last minutes: what the page and the pprof endpoint show.
//!
//! **In**: named base windows, in the order in which they closed. **Out**: whole windows of a time range, and the span
//! that they cover. **Units**: Unix nanoseconds; bytes by [`Profile::weight`]. **Limits**: [`StoreSettings`]; what is too
//! old or too much goes, oldest first, and is counted ([`StoreStats::evicted`]). The newest window always stays: a window
//! is bounded by whoever made it.

use std::collections::VecDeque;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use profile::{Profile, Span};
use tokio::sync::watch;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// A window that ended longer than this before the newest one ended goes.
    pub max_age: Duration,
    /// Bytes of all windows together.
    pub max_bytes: usize,
}

impl Default for StoreSettings {
    fn default() -> Self {
        Self { max_age: Duration::from_secs(15 * 60), max_bytes: 64 << 20 }
    }
}

/// One published window, without its stacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSummary {
    /// The time that it covers.
    pub span: Span,
    /// Its samples.
    pub samples: u64,
}

/// How full the store is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Windows held.
    pub windows: u64,
    /// Bytes held, by [`Profile::weight`].
    pub bytes: u64,
    /// Windows ever published.
    pub published: u64,
    /// Windows that went, for age or for bytes.
    pub evicted: u64,
}

/// The wanted window was not published in the time allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no window that ends at or after the wanted time was published within {} s", .waited.as_secs())]
pub struct NotPublished {
    /// How long was waited.
    pub waited: Duration,
}

/// The windows. Shared by reference; every method may be called from any thread.
#[derive(Debug)]
pub struct Store {
    settings: StoreSettings,
    kept: RwLock<Kept>,
    /// The end of the newest window, Unix nanoseconds; 0 before the first.
    newest_end: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    windows: VecDeque<Window>,
    stats: StoreStats,
}

#[derive(Debug)]
struct Window {
    profile: Arc<Profile>,
    weight: u64,
    samples: u64,
}

impl Store {
    /// An empty store.
    #[must_use]
    pub fn new(settings: StoreSettings) -> Self {
        Self { settings, kept: RwLock::default(), newest_end: watch::Sender::new(0) }
    }

    /// Adds the window that closed last; the oldest go where there is too much.
    pub fn publish(&self, profile: Arc<Profile>) {
        let span = profile.span;
        let window = Window { weight: profile.weight() as u64, samples: profile.samples(), profile };
        {
            let mut kept = self.kept.write().unwrap_or_else(PoisonError::into_inner);
            kept.stats.published += 1;
            kept.stats.bytes += window.weight;
            kept.windows.push_back(window);
            kept.evict(&self.settings, span.to_mono_ns);
            kept.stats.windows = kept.windows.len() as u64;
        }
        self.newest_end.send_modify(|end| *end = (*end).max(span.to_unix_ns));
    }

    /// The windows that have any time in `from_unix_ns..to_unix_ns`, oldest first, and the span that they cover
    /// (empty where there is none). Windows are given whole: the span may be wider than what was asked for.
    #[must_use]
    pub fn range(&self, from_unix_ns: u64, to_unix_ns: u64) -> (Span, Vec<Arc<Profile>>) {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        let found: Vec<Arc<Profile>> = kept
            .windows
            .iter()
            .filter(|w| w.profile.span.to_unix_ns > from_unix_ns && w.profile.span.from_unix_ns < to_unix_ns)
            .map(|w| Arc::clone(&w.profile))
            .collect();
        let span = found.iter().map(|p| p.span).reduce(|a, b| a.union(&b)).unwrap_or_default();
        (span, found)
    }

    /// Every window held, oldest first, without its stacks.
    #[must_use]
    pub fn windows(&self) -> Vec<WindowSummary> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.windows.iter().map(|w| WindowSummary { span: w.profile.span, samples: w.samples }).collect()
    }

    /// The newest window.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Profile>> {
        let kept = self.kept.read().unwrap_or_else(PoisonError::into_inner);
        kept.windows.back().map(|w| Arc::clone(&w.profile))
    }

    /// How full the store is.
    #[must_use]
    pub fn stats(&self) -> StoreStats {
        self.kept.read().unwrap_or_else(PoisonError::into_inner).stats
    }

    /// Waits until a window that ends at or after `unix_ns` is published, at most for `limit`.
    ///
    /// # Errors
    /// [`NotPublished`] where none came in that time.
    pub async fn wait_until(&self, unix_ns: u64, limit: Duration) -> Result<(), NotPublished> {
        let mut newest = self.newest_end.subscribe();
        let late = NotPublished { waited: limit };
        match tokio::time::timeout(limit, newest.wait_for(|&end| end >= unix_ns)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(late),
        }
    }
}

impl Kept {
    /// Takes the oldest away while there is too much; the newest stays.
    fn evict(&mut self, settings: &StoreSettings, now_mono_ns: u64) {
        let max_age = u64::try_from(settings.max_age.as_nanos()).unwrap_or(u64::MAX);
        let max_bytes = settings.max_bytes as u64;
        while self.windows.len() > 1 {
            let Some(oldest) = self.windows.front() else { return };
            let age = now_mono_ns.saturating_sub(oldest.profile.span.to_mono_ns);
            if age <= max_age && self.stats.bytes <= max_bytes {
                return;
            }
            self.stats.bytes = self.stats.bytes.saturating_sub(oldest.weight);
            self.stats.evicted += 1;
            self.windows.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn window(from_s: u64, texts: usize) -> Arc<Profile> {
        let span = Span {
            from_mono_ns: from_s * SECOND,
            to_mono_ns: (from_s + 5) * SECOND,
            from_unix_ns: (1000 + from_s) * SECOND,
            to_unix_ns: (1005 + from_s) * SECOND,
        };
        Arc::new(Profile { span, strings: vec![Arc::from(""); 1 + texts], ..Profile::default() })
    }

    fn settings(age_s: u64, max_bytes: usize) -> StoreSettings {
        StoreSettings { max_age: Duration::from_secs(age_s), max_bytes }
    }

    #[test]
    fn a_range_gives_whole_windows_and_says_what_they_cover() {
        let store = Store::new(StoreSettings::default());
        for i in 0..6 {
            store.publish(window(i * 5, 0));
        }
        let (span, found) = store.range(1007 * SECOND, 1011 * SECOND);
        assert_eq!(found.len(), 2);
        assert_eq!((span.from_unix_ns, span.to_unix_ns), (1005 * SECOND, 1015 * SECOND));
        // The end is exclusive, on both sides.
        let (_, found) = store.range(1005 * SECOND, 1010 * SECOND);
        assert_eq!(found.len(), 1);
        let (span, found) = store.range(0, 1000 * SECOND);
        assert_eq!((span, found.len()), (Span::default(), 0));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_window_or_with_the_limit() {
        let store = Arc::new(Store::new(StoreSettings::default()));
        let late = store.wait_until(1005 * SECOND, Duration::from_millis(20)).await;
        assert_eq!(late, Err(NotPublished { waited: Duration::from_millis(20) }));
        let waiting = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.wait_until(1008 * SECOND, Duration::from_secs(60)).await })
        };
        store.publish(window(0, 0));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "the first window ends before the wanted time");
        store.publish(window(5, 0));
        assert_eq!(waiting.await.unwrap(), Ok(()));
        assert_eq!(store.wait_until(1008 * SECOND, Duration::ZERO).await, Ok(()), "already there");
    }

    proptest! {
        #[test]
        fn age_and_bytes_are_bounds(sizes in prop::collection::vec(0_usize..200, 1..60), age in 0_u64..120, kib in 0_usize..40) {
            let store = Store::new(settings(age, kib << 10));
            for (i, &size) in sizes.iter().enumerate() {
                store.publish(window(i as u64 * 5, size));
                let stats = store.stats();
                let kept = store.windows();
                prop_assert_eq!(stats.windows, kept.len() as u64);
                prop_assert_eq!(stats.published - stats.evicted, stats.windows);
                prop_assert!(stats.windows >= 1);
                if stats.windows > 1 {
                    prop_assert!(stats.bytes <= (kib as u64) << 10);
                    let newest = kept.last().unwrap().span.to_mono_ns;
                    prop_assert!(newest - kept[0].span.to_mono_ns <= age * SECOND);
                }
                let (_, all) = store.range(0, u64::MAX);
                prop_assert_eq!(all.iter().map(|p| p.weight() as u64).sum::<u64>(), stats.bytes);
            }
        }
    }
}
