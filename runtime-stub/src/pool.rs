//! A small pool of threads: it starts them once, lets them spin for a moment between two kernels, then sleep.
//!
//! A job is a word and three values. The word holds the job's number, how many parts it has and which one is to be taken next;
//! whoever takes a part does so by one exchange of that word, so a thread that comes late to a job finds nothing of it. The
//! caller works, too, and its first part is part 0: with as many parts as threads each usually gets the same one every time.

use crate::Parallel;
use core::ffi::c_void;
use core::hint::spin_loop;
use core::ptr::null_mut;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::vec::Vec;
use tenon_abi::{Env, Work};

/// How often an idle thread looks for a job before it sleeps: some 100 µs.
const IDLE_SPINS: u32 = 5_000;
/// How often the caller looks whether the others have ended before it lets another thread run, and how often it does that before
/// it sleeps.
const CALLER_SPINS: u32 = 2_000;
const CALLER_YIELDS: u32 = 50;

/// Threads that run the parts of kernels: `threads` with the one that calls.
///
/// Any number of models and threads may use a pool at once. It works for one of them at a time; who finds it taken runs the parts
/// itself meanwhile. Dropping the pool ends its threads.
///
/// ```
/// let pool = tenon_runtime::Pool::new(2);
/// let sum = std::sync::atomic::AtomicUsize::new(0);
/// pool.for_each(10, &|k| {
///     sum.fetch_add(k, std::sync::atomic::Ordering::Relaxed);
/// });
/// assert_eq!(sum.into_inner(), 45);
/// ```
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl Pool {
    /// A pool of `threads`, of which one is the caller's: it starts the others. Where the system refuses a thread there are fewer.
    pub fn new(threads: usize) -> Pool {
        let shared = Arc::new(Shared::default());
        let start = |_| {
            let shared = Arc::clone(&shared);
            thread::Builder::new().name("tenon".into()).spawn(move || shared.serve()).ok()
        };
        let workers = (1..threads).map_while(start).collect();
        Pool { shared, workers }
    }

    /// Threads that work, with the caller's.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `f` once for every number below `count`, on the pool's threads, and returns when all calls have. A panic of `f` ends
    /// the program.
    pub fn for_each(&self, count: usize, f: &(dyn Fn(usize) + Sync)) {
        unsafe extern "C" fn call(data: *mut c_void, index: usize) {
            // SAFETY: `data` is what `for_each` passes, and lives until the job has ended.
            let f = unsafe { &**data.cast::<&(dyn Fn(usize) + Sync)>() };
            f(index);
        }
        let mut f = f;
        // SAFETY: `call` takes a pointer to `f`, which outlives the job; `f` may be called by several threads at once.
        unsafe { self.shared.run(count, call, (&raw mut f).cast()) };
    }
}

// SAFETY: `hook` runs every part once and returns when all have returned; the context lives as long as the pool.
unsafe impl Parallel for Pool {
    fn env(&self) -> Env {
        let context = Arc::as_ptr(&self.shared).cast_mut().cast();
        Env { parallel_for: Some(hook), context, ..Env::SERIAL }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        drop(self.shared.lock());
        self.shared.wake.notify_all();
        for w in self.workers.drain(..) {
            // A worker runs nothing that panics; if it did, the program would have ended.
            let _ = w.join();
        }
    }
}

/// # Safety
/// `context` is that of [`Pool::env`], of a pool that lives; the rest as [`tenon_abi::ParallelFor`] says.
unsafe extern "C" fn hook(context: *mut c_void, count: usize, work: Work, data: *mut c_void) {
    // SAFETY: the pool lives, and with it what it shares.
    let shared = unsafe { &*context.cast::<Shared>() };
    // SAFETY: by this function's contract.
    unsafe { shared.run(count, work, data) };
}

/// A value on cache lines of its own (two: hardware fetches them in pairs), so that who waits for it hears of nothing else.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

impl<T> core::ops::Deref for Apart<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    /// Somebody's job is being done.
    taken: AtomicBool,
    /// The job.
    job: Apart<Job>,
    /// Parts that have ended.
    done: Apart<AtomicUsize>,
    /// Threads that sleep until there is a job, and whether the caller sleeps until the last part has ended.
    sleepers: AtomicUsize,
    waiting: AtomicBool,
    stop: AtomicBool,
    gate: Mutex<()>,
    wake: Condvar,
    ended: Condvar,
}

/// What is to be done.
#[derive(Debug)]
struct Job {
    /// Its number (32 bits), its parts (16), the part that is to be taken next (16).
    state: AtomicU64,
    /// Its function, as an address, and what it is given: written while no part of a job is left.
    work: AtomicPtr<c_void>,
    data: AtomicPtr<c_void>,
}

impl Default for Shared {
    fn default() -> Shared {
        Shared {
            taken: AtomicBool::new(false),
            job: Apart(Job {
                state: AtomicU64::new(0),
                work: AtomicPtr::new(null_mut()),
                data: AtomicPtr::new(null_mut()),
            }),
            done: Apart(AtomicUsize::new(0)),
            sleepers: AtomicUsize::new(0),
            waiting: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            gate: Mutex::new(()),
            wake: Condvar::new(),
            ended: Condvar::new(),
        }
    }
}

/// The parts of a job, and the next one.
fn parts(state: u64) -> (usize, usize) {
    ((state >> 16) as usize & 0xffff, state as usize & 0xffff)
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `work(data, k)` for every `k` in `0..count`.
    ///
    /// # Safety
    /// As [`tenon_abi::ParallelFor`] says.
    unsafe fn run(&self, count: usize, work: Work, data: *mut c_void) {
        let alone = !(2..=0xffff).contains(&count);
        if alone || self.taken.compare_exchange(false, true, Acquire, Relaxed).is_err() {
            // SAFETY: by this function's contract.
            (0..count).for_each(|k| unsafe { work(data, k) });
            return;
        }
        // No part of the job before is left, so nobody reads these: see `help`.
        self.job.work.store(work as *mut c_void, Relaxed);
        self.job.data.store(data, Relaxed);
        self.done.store(0, Relaxed);
        let number = (self.job.state.load(Relaxed) >> 32).wrapping_add(1);
        self.job.state.store(number << 32 | (count as u64) << 16, SeqCst);
        if self.sleepers.load(SeqCst) > 0 {
            drop(self.lock());
            self.wake.notify_all();
        }
        self.help();
        self.wait(count);
        self.taken.store(false, Release);
    }

    /// Takes parts and runs them until none is left.
    fn help(&self) {
        loop {
            let state = self.job.state.load(Acquire);
            let (count, next) = parts(state);
            if next >= count {
                return;
            }
            let (work, data) = (self.job.work.load(Relaxed), self.job.data.load(Relaxed));
            if self.job.state.compare_exchange(state, state + 1, AcqRel, Relaxed).is_err() {
                continue;
            }
            // The exchange shows that this part had not been taken, so its job had not ended, and what was read is the job's.
            // SAFETY: `run` stored this function, and its caller says that it may be called with the data for this part.
            unsafe {
                let work = core::mem::transmute::<*mut c_void, Work>(work);
                work(data, next);
            }
            if self.done.fetch_add(1, SeqCst) + 1 == count && self.waiting.load(SeqCst) {
                drop(self.lock());
                self.ended.notify_all();
            }
        }
    }

    /// Waits until `count` parts have ended.
    fn wait(&self, count: usize) {
        for k in 0..CALLER_SPINS + CALLER_YIELDS {
            if self.done.load(Acquire) == count {
                return;
            }
            if k < CALLER_SPINS {
                spin_loop();
            } else {
                thread::yield_now();
            }
        }
        let mut guard = self.lock();
        self.waiting.store(true, SeqCst);
        while self.done.load(SeqCst) != count {
            guard = self.ended.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
        self.waiting.store(false, SeqCst);
    }

    /// Whether there is a part to take, or nothing will come any more.
    fn has_news(&self) -> bool {
        let (count, next) = parts(self.job.state.load(SeqCst));
        next < count || self.stop.load(SeqCst)
    }

    /// What a thread of the pool does until it ends.
    fn serve(&self) {
        while !self.stop.load(Acquire) {
            self.help();
            let mut spins = 0;
            while spins < IDLE_SPINS && !self.has_news() {
                spin_loop();
                spins += 1;
            }
            if spins < IDLE_SPINS {
                continue;
            }
            let mut guard = self.lock();
            self.sleepers.fetch_add(1, SeqCst);
            while !self.has_news() {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            self.sleepers.fetch_sub(1, SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_runs_once_whoever_asks() {
        let pool = Pool::new(3);
        thread::scope(|s| {
            for _ in 0..3 {
                s.spawn(|| {
                    for round in 0..2_000 {
                        let count = 1 + round % 7;
                        let runs: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
                        pool.for_each(count, &|k| {
                            runs[k].fetch_add(1, Relaxed);
                        });
                        assert!(runs.iter().all(|r| r.load(Relaxed) == 1), "round {round}");
                    }
                });
            }
        });
    }

    #[test]
    fn what_parts_write_is_seen() {
        let pool = Pool::new(2);
        let mut values = [0usize; 64];
        for round in 1..2_000 {
            let cells: Vec<AtomicPtr<usize>> = values.iter_mut().map(|v| AtomicPtr::new(v)).collect();
            // SAFETY: each part has a value of its own.
            pool.for_each(64, &|k| unsafe { *cells[k].load(Relaxed) = round * k });
            assert!(values.iter().enumerate().all(|(k, v)| *v == round * k));
        }
    }

    #[test]
    fn sleepers_wake_and_end() {
        for round in 0..20 {
            let pool = Pool::new(1 + round % 4);
            if round % 2 == 0 {
                // Long enough for the others to sleep.
                thread::sleep(core::time::Duration::from_millis(3));
            }
            let sum = AtomicUsize::new(0);
            pool.for_each(100, &|k| {
                sum.fetch_add(k, Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn a_part_may_ask_again() {
        let pool = Pool::new(2);
        let sum = AtomicUsize::new(0);
        pool.for_each(4, &|_| {
            pool.for_each(4, &|k| {
                sum.fetch_add(k, Relaxed);
            });
        });
        assert_eq!(sum.into_inner(), 24);
    }
}
