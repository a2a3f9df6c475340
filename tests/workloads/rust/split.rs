//! split_rust TRUTH_FILE PERCENT_ALPHA SECONDS [SEED]
//!
//! Two generic functions share one thread's CPU time in random slices; how much each had is measured by the thread's
//! own clock. Built by plain rustc: the names are mangled and carry their type parameters.

use std::fs::File;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

static STOP: AtomicBool = AtomicBool::new(false);

#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Timespec) -> i32;
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
}

extern "C" fn on_signal(_: i32) {
    STOP.store(true, Ordering::Relaxed);
}

fn thread_cpu() -> Duration {
    let mut time = Timespec { seconds: 0, nanoseconds: 0 };
    // SAFETY: `time` is a valid place for one timespec; clock 3 is CLOCK_THREAD_CPUTIME_ID on Linux.
    unsafe { clock_gettime(3, &mut time) };
    Duration::new(time.seconds.unsigned_abs(), u32::try_from(time.nanoseconds).unwrap_or(0))
}

trait Step {
    fn step(value: u64, i: u64) -> u64;
}
struct Alpha;
struct Beta;
impl Step for Alpha {
    #[inline(always)]
    fn step(value: u64, i: u64) -> u64 {
        value.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(i)
    }
}
impl Step for Beta {
    #[inline(always)]
    fn step(value: u64, i: u64) -> u64 {
        value.wrapping_mul(2_685_821_657_736_338_717).wrapping_add(i)
    }
}

struct Spinner<S>(std::marker::PhantomData<S>);
impl<S: Step> Spinner<S> {
    #[inline(never)]
    fn spin(rounds: u64) -> u64 {
        let mut value = rounds | 1;
        for i in 0..rounds {
            value = black_box(S::step(value, i));
        }
        value
    }
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(2_685_821_657_736_338_717)
}

fn line(out: &mut File, alpha: Duration, beta: Duration) {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos();
    let text = format!("{{\"unix_ns\":{unix},\"alpha_ns\":{},\"beta_ns\":{}}}\n", alpha.as_nanos(), beta.as_nanos());
    out.write_all(text.as_bytes()).expect("the truth can be written");
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, path, percent, seconds, ..] = args.as_slice() else {
        eprintln!("usage: split_rust TRUTH_FILE PERCENT_ALPHA SECONDS [SEED]");
        std::process::exit(2);
    };
    let percent: u64 = percent.parse().expect("PERCENT_ALPHA is a number");
    let end = Instant::now() + Duration::from_secs(seconds.parse().expect("SECONDS is a number"));
    let mut seed: u64 = args.get(4).map_or(88_172_645_463_325_252, |s| s.parse().expect("SEED is a number"));
    let mut out = File::create(path).expect("TRUTH_FILE can be written");
    for number in [2, 15] {
        // SAFETY: the handler only stores to an atomic.
        unsafe { signal(number, on_signal) };
    }
    let (mut alpha, mut beta) = (Duration::ZERO, Duration::ZERO);
    let mut next = Instant::now();
    while !STOP.load(Ordering::Relaxed) && Instant::now() < end {
        if Instant::now() >= next {
            line(&mut out, alpha, beta);
            next = Instant::now() + Duration::from_millis(50);
        }
        let rounds = 100_000 + random(&mut seed) % 1_000_000;
        let first = (random(&mut seed) >> 16) % 100 < percent;
        let before = thread_cpu();
        black_box(if first { Spinner::<Alpha>::spin(rounds) } else { Spinner::<Beta>::spin(rounds) });
        let spent = thread_cpu() - before;
        if first { alpha += spent } else { beta += spent }
    }
    line(&mut out, alpha, beta);
}
