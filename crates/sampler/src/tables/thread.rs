//! What the thread "tables" does: news first, then the hottest file, then what is not pressing.
//!
//! **In**: [`News`]. **Out**: [`Kernel`]. **Units**: milliseconds. **Limits**: one file at a time, so that news never wait for
//! more than one; what is retired is collected at most each [`COLLECT_INTERVAL`], but for want of room. With nothing to do the thread
//! sleeps until there are news.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::time::{Duration, Instant};

use unwind_table::FileTable;

use super::desk::{Mapped, News, Why};
use super::queue::Work;
use super::{Kernel, State, TableSource, TablesCounted};

/// Sets that are written anew between two looks for news.
const REWRITTEN: usize = 64;
/// Between two waits for walks for what is retired.
const COLLECT_INTERVAL: Duration = Duration::from_secs(1);
/// Files of one process that are looked up when it is published. The others stay pending until they are needed.
const LOOKED_UP: usize = 256;

/// Runs until nobody can send news any more.
pub(crate) fn run<S: TableSource, K: Kernel>(
    source: &S,
    mut kernel: K,
    news: &Receiver<News>,
    counted: &TablesCounted,
) {
    let mut thread = Thread { source, state: State::new(), shards: u32::MAX };
    let mut collected = Instant::now();
    loop {
        match next_news(news, thread.pause(collected)) {
            Ok(news) => thread.take(news, &mut kernel),
            Err(RecvTimeoutError::Timeout) => (),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        thread.state.rewrite(REWRITTEN, &mut kernel);
        thread.work(&mut kernel);
        if thread.state.is_collection_due() && collected.elapsed() >= COLLECT_INTERVAL {
            collected = Instant::now();
            thread.state.collect(&mut kernel);
        }
        thread.count(&kernel, counted);
    }
}

/// Waits for so long; for ever without a number.
fn next_news(news: &Receiver<News>, pause: Option<Duration>) -> Result<News, RecvTimeoutError> {
    match pause {
        None => news.recv().map_err(|_| RecvTimeoutError::Disconnected),
        Some(Duration::ZERO) => news.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvTimeoutError::Timeout,
            TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
        }),
        Some(pause) => news.recv_timeout(pause),
    }
}

struct Thread<'a, S> {
    source: &'a S,
    state: State,
    /// When the kernel was last asked for its memory.
    shards: u32,
}

impl<S: TableSource> Thread<'_, S> {
    /// How long nothing is to be done.
    fn pause(&self, collected: Instant) -> Option<Duration> {
        if self.state.has_work() {
            return Some(Duration::ZERO);
        }
        self.state.is_collection_due().then(|| COLLECT_INTERVAL.saturating_sub(collected.elapsed()))
    }

    fn take(&mut self, news: News, kernel: &mut impl Kernel) {
        for (&tgid, _) in news.processes.iter().filter(|(_, mapped)| mapped.is_none()) {
            self.state.gone(tgid, kernel);
        }
        for object in news.taken_off {
            self.state.take_off(object);
        }
        let mut mapped: Vec<Mapped> = news.processes.into_values().flatten().collect();
        // Who executes first: it is not published until then, and the others are.
        mapped.sort_by_key(|mapped| std::cmp::Reverse(mapped.why));
        for mapped in &mapped {
            let unlooked = self.state.unlooked(mapped);
            let known = unlooked.into_iter().take(LOOKED_UP).filter_map(|index| {
                let mapping = mapped.maps.list().get(index)?;
                // What nobody has opened yet is not opened for this: that may take long.
                self.source.known(&mapping.file.mapped)?;
                let info = self.source.object(&mapping.file.mapped, mapped.tgid, mapping.start..mapping.end);
                Some((Arc::clone(&mapping.file), info))
            });
            let known: Vec<_> = known.collect();
            self.state.mapped(mapped, &known, kernel);
            if mapped.why == Why::Executed {
                self.state.fetch_ahead(mapped);
            }
        }
        if let Some(running) = news.running {
            self.state.only_these_run(&running, kernel);
        }
        if news.windows > 0 {
            self.state.windows(news.windows, &news.heat);
        }
        for (file, samples) in &news.wanted {
            self.state.wanted(file, *samples);
        }
    }

    /// Does the hottest thing.
    fn work(&mut self, kernel: &mut impl Kernel) {
        match self.state.next_work() {
            Some(Work::Open { file, tgid, range }) => {
                let info = self.source.object(&file.mapped, tgid, range);
                self.state.opened(&file, &info);
            }
            Some(Work::Load { object }) => {
                let content = self.source.content(object);
                if self.state.share(object, content) {
                    return;
                }
                let bytes = self.source.walk_table(object);
                let table = bytes.as_deref().map(FileTable::parse);
                let table = table.and_then(|table| {
                    table.inspect_err(|error| tracing::debug!(?object, %error, "a table is not used")).ok()
                });
                self.state.load(object, content, table.as_ref(), kernel);
            }
            None => (),
        }
    }

    fn count(&mut self, kernel: &impl Kernel, counted: &TablesCounted) {
        self.state.count(kernel, counted);
        if self.shards != kernel.shards() {
            self.shards = kernel.shards();
            counted.kernel_bytes.store(kernel.kernel_bytes(), Ordering::Relaxed);
        }
    }
}
