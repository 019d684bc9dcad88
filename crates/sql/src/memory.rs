//! What SQLite may allocate.
//!
//! SQLite's own limits are the whole process's: one request at its limit would fail those of other shards. So each
//! thread counts what SQLite allocates and frees on it, and while a request runs there, an allocation past its
//! allowance fails: SQLite then gives up the statement, as it does when a machine has no memory left.

use std::cell::Cell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use rusqlite::ffi;

/// Each connection's store for small, short-lived objects. SQLite's own is 48 KB, half of what an open tiny database
/// holds; the requests that these see take no longer with a quarter of it.
const LOOKASIDE_BYTES: c_int = 1200;
const LOOKASIDE_SLOTS: c_int = 10;

thread_local! {
    /// Allocated less freed on this thread, bytes.
    static NET: Cell<i64> = const { Cell::new(0) };
    /// What `NET` must not exceed.
    static LIMIT: Cell<i64> = const { Cell::new(i64::MAX) };
}

/// Bounds what SQLite allocates on this thread until it is dropped.
pub(crate) struct Allowance {
    began: i64,
    outer_limit: i64,
}

impl Allowance {
    pub(crate) fn begin(bytes: usize) -> Allowance {
        let began = NET.get();
        let limit = began.saturating_add(i64::try_from(bytes).unwrap_or(i64::MAX));
        Allowance { began, outer_limit: LIMIT.replace(limit) }
    }

    /// What was allocated since and is still held, less what was freed, bytes.
    pub(crate) fn held(&self) -> i64 {
        NET.get() - self.began
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        LIMIT.set(self.outer_limit);
    }
}

/// SQLite's own allocator, which does the work.
struct Inner {
    malloc: unsafe extern "C" fn(c_int) -> *mut c_void,
    free: unsafe extern "C" fn(*mut c_void),
    realloc: unsafe extern "C" fn(*mut c_void, c_int) -> *mut c_void,
    size: unsafe extern "C" fn(*mut c_void) -> c_int,
}

static INNER: OnceLock<Inner> = OnceLock::new();

/// Lays the counting over SQLite's allocator. Before SQLite is used for the first time in the process, and once.
#[allow(unsafe_code)]
pub(crate) fn install() -> Result<(), c_int> {
    let mut methods = ffi::sqlite3_mem_methods {
        xMalloc: None,
        xFree: None,
        xRealloc: None,
        xSize: None,
        xRoundup: None,
        xInit: None,
        xShutdown: None,
        pAppData: std::ptr::null_mut(),
    };
    // SAFETY: the option takes a pointer to a structure that it fills.
    succeeded(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_GETMALLOC, &raw mut methods) })?;
    let (Some(malloc), Some(free), Some(realloc), Some(size)) =
        (methods.xMalloc, methods.xFree, methods.xRealloc, methods.xSize)
    else {
        return Err(ffi::SQLITE_INTERNAL);
    };
    if INNER.set(Inner { malloc, free, realloc, size }).is_err() {
        return Err(ffi::SQLITE_MISUSE);
    }
    methods.xMalloc = Some(counted_malloc);
    methods.xFree = Some(counted_free);
    methods.xRealloc = Some(counted_realloc);
    // SAFETY: the option takes a pointer to a structure that it copies; its functions stay, and do as SQLite's own,
    // which they call.
    succeeded(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MALLOC, &raw mut methods) })?;
    // SQLite's own count takes a lock that all threads share, at each allocation.
    // SAFETY: the option takes an integer.
    succeeded(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_MEMSTATUS, 0 as c_int) })?;
    // SAFETY: the option takes two integers.
    succeeded(unsafe { ffi::sqlite3_config(ffi::SQLITE_CONFIG_LOOKASIDE, LOOKASIDE_BYTES, LOOKASIDE_SLOTS) })
}

fn succeeded(code: c_int) -> Result<(), c_int> {
    if code == ffi::SQLITE_OK { Ok(()) } else { Err(code) }
}

fn inner() -> &'static Inner {
    INNER.get().expect("the counting functions are known to SQLite only once this is set")
}

/// SAFETY of all three: SQLite calls them as its own allocator's, whose conditions are then met.
#[allow(unsafe_code)]
unsafe extern "C" fn counted_malloc(bytes: c_int) -> *mut c_void {
    if NET.get().saturating_add(i64::from(bytes)) > LIMIT.get() {
        return std::ptr::null_mut();
    }
    // SAFETY: as above.
    let allocated = unsafe { (inner().malloc)(bytes) };
    if !allocated.is_null() {
        // SAFETY: it was allocated just now.
        NET.set(NET.get() + i64::from(unsafe { (inner().size)(allocated) }));
    }
    allocated
}

#[allow(unsafe_code)]
unsafe extern "C" fn counted_free(allocated: *mut c_void) {
    if allocated.is_null() {
        return;
    }
    // SAFETY: as above; it is freed only after its size was asked.
    unsafe {
        NET.set(NET.get() - i64::from((inner().size)(allocated)));
        (inner().free)(allocated);
    }
}

#[allow(unsafe_code)]
unsafe extern "C" fn counted_realloc(allocated: *mut c_void, bytes: c_int) -> *mut c_void {
    // SAFETY: as above.
    let before = unsafe { (inner().size)(allocated) };
    if bytes > before && NET.get().saturating_add(i64::from(bytes - before)) > LIMIT.get() {
        return std::ptr::null_mut();
    }
    // SAFETY: as above.
    let moved = unsafe { (inner().realloc)(allocated, bytes) };
    if !moved.is_null() {
        // SAFETY: it was allocated just now.
        NET.set(NET.get() + i64::from(unsafe { (inner().size)(moved) }) - i64::from(before));
    }
    moved
}
