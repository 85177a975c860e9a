//! Time and allocations of one operation.
//!
//! The least of many short samples is taken: on a shared machine it is the one figure that the
//! neighbours do not move. Allocations are exact.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    env,
    hint::black_box,
    time::{Duration, Instant},
};

/// The system's allocator, counting for the thread that asks.
struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
    static BYTES: Cell<u64> = const { Cell::new(0) };
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: usize) {
    COUNT.set(COUNT.get() + 1);
    BYTES.set(BYTES.get() + bytes as u64);
}

#[expect(
    unsafe_code,
    reason = "an allocator is an unsafe trait; every call goes to the system's as it came"
)]
// SAFETY: each method hands its arguments on to `System`, which upholds the trait's contract; the
// counters are plain cells of the thread, whose constant initializer allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promise, handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise, handed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count(new_size);
        // SAFETY: the caller's promise, handed on.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

/// What one operation costs.
struct Cost {
    nanos: f64,
    allocations: f64,
    bytes: f64,
}

/// Operations whose allocations are counted.
const COUNTED: u32 = 1_000;
/// How long all samples of one operation take together.
const SPAN: Duration = Duration::from_millis(400);
/// How long one sample takes, about.
const SAMPLE: Duration = Duration::from_micros(500);

/// Measures `operation` and prints its line, unless the command line asks for others.
///
/// `-- NAME` takes only the lines with NAME in them; `-- NAME --times N` runs them so often and
/// prints nothing, for callgrind.
pub fn line<T>(name: &str, mut operation: impl FnMut() -> T) {
    // Cargo says `--bench` itself.
    let mut words = env::args().skip(1).filter(|word| word != "--bench");
    let wanted = words.next();
    if wanted.is_some_and(|wanted| !name.contains(&wanted)) {
        return;
    }
    if words.next().is_some_and(|word| word == "--times") {
        let times = words.next().and_then(|times| times.parse().ok());
        time(times.unwrap_or(1), &mut operation);
        return;
    }
    let Cost {
        nanos,
        allocations,
        bytes,
    } = cost(operation);
    println!("| {name} | {nanos:.0} | {allocations:.1} | {bytes:.0} |");
}

fn cost<T>(mut operation: impl FnMut() -> T) -> Cost {
    // What is made on first use is not counted.
    for _ in 0..100 {
        black_box(operation());
    }
    // A mean: what is allocated ahead shows once in many operations.
    let (count, bytes) = (COUNT.get(), BYTES.get());
    for _ in 0..COUNTED {
        black_box(operation());
    }
    let mean = |now: u64, before: u64| (now - before) as f64 / f64::from(COUNTED);
    let (allocations, bytes) = (mean(COUNT.get(), count), mean(BYTES.get(), bytes));
    let one = time(1, &mut operation).max(Duration::from_nanos(1));
    let times = u32::try_from((SAMPLE.as_nanos() / one.as_nanos()).clamp(1, 100_000)).unwrap_or(1);
    let end = Instant::now() + SPAN;
    let mut nanos = f64::INFINITY;
    while Instant::now() < end {
        let took = time(times, &mut operation).as_secs_f64() * 1e9;
        nanos = nanos.min(took / f64::from(times));
    }
    Cost {
        nanos,
        allocations,
        bytes,
    }
}

fn time<T>(times: u32, operation: &mut impl FnMut() -> T) -> Duration {
    let begin = Instant::now();
    for _ in 0..times {
        black_box(operation());
    }
    begin.elapsed()
}

/// The head of a table.
pub fn head(title: &str) {
    println!("\n| {title} | ns | allocations | bytes allocated |\n| --- | --- | --- | --- |");
}
