//! Loads and stores on map memory that the other side changes meanwhile.
//!
//! The kernel's programs and the agent's mappings see the same bytes. A plain read would let the
//! compiler repeat, tear or reorder it, so every access of shared memory goes through here: volatile
//! in the kernel (the BPF target has no other load), acquire and release on the host.
//!
//! No ordering between two fields is promised to the reader. What must be seen in order has a check
//! after the fact (a slot's owner, a line's generation) or is one word.

use core::marker::PhantomData;
use core::mem::offset_of;

use crate::layout::{Address, AffinityRow, ClientRow, Line, Origin, Overflow, Record, Set, Slot};

/// A pointer to a map's value that lives at least as long as `'a` and may change at any time.
pub struct Shared<'a, T> {
    at: *mut T,
    life: PhantomData<&'a T>,
}

impl<T> Clone for Shared<'_, T> {
    #[inline(always)]
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Shared<'_, T> {}

// SAFETY: every access is a whole word by volatile or atomic operations (below), which any thread
// may do at any time; the memory outlives `'a` by the contract of `new`.
unsafe impl<T> Send for Shared<'_, T> {}
// SAFETY: as for Send.
unsafe impl<T> Sync for Shared<'_, T> {}

macro_rules! word_access {
    ($load:ident, $store:ident, $word:ty, $atomic:ty) => {
        #[inline(always)]
        fn $load(self, offset: usize) -> $word {
            debug_assert!(offset + size_of::<$word>() <= size_of::<T>());
            let at = self.at.cast::<u8>().wrapping_add(offset).cast::<$word>();
            #[cfg(target_arch = "bpf")]
            // SAFETY: inside the value by the constant offsets of this module, aligned by its layout.
            return unsafe { at.read_volatile() };
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: as above; all writers use atomic stores or are in the kernel.
            return unsafe { <$atomic>::from_ptr(at) }.load(core::sync::atomic::Ordering::Acquire);
        }

        #[inline(always)]
        fn $store(self, offset: usize, value: $word) {
            debug_assert!(offset + size_of::<$word>() <= size_of::<T>());
            let at = self.at.cast::<u8>().wrapping_add(offset).cast::<$word>();
            #[cfg(target_arch = "bpf")]
            // SAFETY: inside the value by the constant offsets of this module, aligned by its layout.
            unsafe {
                at.write_volatile(value)
            };
            #[cfg(not(target_arch = "bpf"))]
            // SAFETY: as above; all readers use atomic loads or are in the kernel.
            unsafe { <$atomic>::from_ptr(at) }.store(value, core::sync::atomic::Ordering::Release);
        }
    };
}

impl<'a, T> Shared<'a, T> {
    /// Wraps a map's value.
    ///
    /// # Safety
    /// `at` points to a `T` inside a map, aligned as `T` is, readable and writable for as long as
    /// `'a`, and every other party accesses it by whole aligned words.
    #[inline(always)]
    pub const unsafe fn new(at: *mut T) -> Self {
        Self { at, life: PhantomData }
    }

    word_access!(load8, store8, u8, core::sync::atomic::AtomicU8);
    word_access!(load16, store16, u16, core::sync::atomic::AtomicU16);
    word_access!(load32, store32, u32, core::sync::atomic::AtomicU32);
    word_access!(load64, store64, u64, core::sync::atomic::AtomicU64);

    /// A pointer to a part of the value.
    #[inline(always)]
    fn part<P>(self, offset: usize) -> Shared<'a, P> {
        debug_assert!(offset + size_of::<P>() <= size_of::<T>());
        Shared { at: self.at.cast::<u8>().wrapping_add(offset).cast(), life: PhantomData }
    }

    #[inline(always)]
    fn load_address(self, offset: usize) -> [u64; 2] {
        [self.load64(offset), self.load64(offset + 8)]
    }

    #[inline(always)]
    fn store_address(self, offset: usize, words: [u64; 2]) {
        self.store64(offset, words[0]);
        self.store64(offset + 8, words[1]);
    }

    /// Adds to a 32-bit word. The only read-modify-write that every kernel since 5.10 accepts, and
    /// only when its result is discarded.
    #[inline(always)]
    fn add32(self, offset: usize, value: u32) {
        let at = self.at.cast::<u8>().wrapping_add(offset).cast::<u32>();
        #[cfg(target_arch = "bpf")]
        // SAFETY: inside the value, aligned. Discarding the result makes it a fetch-less add.
        unsafe {
            core::intrinsics::atomic_xadd::<u32, u32, { core::intrinsics::AtomicOrdering::Relaxed }>(
                at, value,
            )
        };
        #[cfg(not(target_arch = "bpf"))]
        // SAFETY: inside the value, aligned.
        unsafe { core::sync::atomic::AtomicU32::from_ptr(at) }
            .fetch_add(value, core::sync::atomic::Ordering::AcqRel);
    }
}

/// Readers and writers of one field each, as (reader, writer, offset of the field, word).
macro_rules! fields {
    ($type:ty { $($(#[$doc:meta])* $get:ident / $set:ident: $word:ty = $load:ident $store:ident $field:ident;)+ }) => {
        impl Shared<'_, $type> {
            $(
                $(#[$doc])*
                #[inline(always)]
                pub fn $get(self) -> $word { self.$load(offset_of!($type, $field)) }
                $(#[$doc])*
                #[inline(always)]
                pub fn $set(self, value: $word) { self.$store(offset_of!($type, $field), value) }
            )+
        }
    };
}

fields!(Line {
    /// Address as two words.
    address / set_address: [u64; 2] = load_address store_address address;
    /// Port, protocol and scope as [`Line::key_word`]: 0 in an empty line. Stored last, it publishes.
    key_word / set_key_word: u32 = load32 store32 port;
    /// Service id.
    service / set_service: u32 = load32 store32 service;
    /// The set as [`Set::word`].
    set_word / set_set_word: u64 = load64 store64 set;
    /// Generation.
    generation / set_generation: u32 = load32 store32 generation;
    /// The service that takes over.
    heir / set_heir: u32 = load32 store32 heir;
    /// [`crate::layout::LineFlags`].
    flags / set_flags: u16 = load16 store16 flags;
    /// Farthest frontend of this home.
    reach / set_reach: u8 = load8 store8 reach;
    /// Session affinity, seconds.
    affinity_seconds / set_affinity_seconds: u32 = load32 store32 affinity_seconds;
    /// Bits of the backends whose home this is.
    marks / set_marks: u64 = load64 store64 marks;
});

impl Shared<'_, Line> {
    /// The whole set.
    #[inline(always)]
    pub fn set(self) -> Set {
        Set::from_word(self.set_word())
    }

    /// A copy of the line. Another party may change it between two fields.
    pub fn read(self) -> Line {
        let key = self.key_word().to_ne_bytes();
        Line {
            address: Address::from_words(self.address()),
            port: u16::from_ne_bytes([key[0], key[1]]),
            protocol: key[2],
            scope: key[3],
            service: self.service(),
            set: self.set(),
            generation: self.generation(),
            heir: self.heir(),
            flags: self.flags(),
            reach: self.reach(),
            _pad0: [0; 5],
            affinity_seconds: self.affinity_seconds(),
            _pad1: 0,
            marks: self.marks(),
        }
    }
}

fields!(Slot {
    /// Address as two words.
    address / set_address: [u64; 2] = load_address store_address address;
    /// Port, host order.
    port / set_port: u16 = load16 store16 port;
    /// [`crate::layout::SlotFlags`].
    flags / set_flags: u16 = load16 store16 flags;
    /// Owner's service id.
    owner / set_owner: u32 = load32 store32 owner;
    /// Threshold.
    threshold / set_threshold: u32 = load32 store32 threshold;
    /// Alias.
    alias / set_alias: u32 = load32 store32 alias;
});

impl Shared<'_, Slot> {
    /// A copy of the slot.
    pub fn read(self) -> Slot {
        Slot {
            address: Address::from_words(self.address()),
            port: self.port(),
            flags: self.flags(),
            owner: self.owner(),
            threshold: self.threshold(),
            alias: self.alias(),
        }
    }

    /// Writes a slot of a range that no set refers to yet, where it is in memory of our own: into a map the
    /// kernel writes it, in no order that it promises.
    pub fn write(self, slot: &Slot) {
        self.set_address(slot.address.words());
        self.set_port(slot.port);
        self.set_flags(slot.flags);
        self.set_threshold(slot.threshold);
        self.set_alias(slot.alias);
        self.set_owner(slot.owner);
    }
}

fields!(Record {
    /// Dialled address as two words.
    dialled / set_dialled: [u64; 2] = load_address store_address dialled;
    /// Given address as two words.
    given / set_given: [u64; 2] = load_address store_address given;
    /// Dialled port, host order.
    dialled_port / set_dialled_port: u16 = load16 store16 dialled_port;
    /// Given port, host order.
    given_port / set_given_port: u16 = load16 store16 given_port;
    /// IANA protocol number.
    protocol / set_protocol: u8 = load8 store8 protocol;
    /// [`crate::layout::RecordFlags`].
    flags / set_flags: u8 = load8 store8 flags;
    /// Index line.
    line / set_line: u32 = load32 store32 line;
    /// Generation of the line.
    generation / set_generation: u32 = load32 store32 generation;
});

impl Shared<'_, Record> {
    /// A copy of the record. Its socket may change it between two fields.
    pub fn read(self) -> Record {
        Record {
            dialled: Address::from_words(self.dialled()),
            given: Address::from_words(self.given()),
            dialled_port: self.dialled_port(),
            given_port: self.given_port(),
            protocol: self.protocol(),
            flags: self.flags(),
            _pad: 0,
            line: self.line(),
            generation: self.generation(),
        }
    }
}

impl Shared<'_, AffinityRow> {
    /// A copy of the row, `used` first. What another key's row was mixed into does not fit the seal.
    #[inline(always)]
    pub fn read(self) -> AffinityRow {
        let used = self.load64(offset_of!(AffinityRow, used));
        AffinityRow {
            used,
            generation: self.load32(offset_of!(AffinityRow, generation)),
            seal: self.load32(offset_of!(AffinityRow, seal)),
            address: Address::from_words(self.load_address(offset_of!(AffinityRow, address))),
            port: self.load16(offset_of!(AffinityRow, port)),
            _pad: 0,
            line: self.load32(offset_of!(AffinityRow, line)),
            counted_for: self.load32(offset_of!(AffinityRow, counted_for)),
            _pad1: 0,
        }
    }

    /// Says when the client made its latest new connection.
    #[inline(always)]
    pub fn set_used(self, used: u64) {
        self.store64(offset_of!(AffinityRow, used), used);
    }
}

fields!(Origin {
    /// Cookie of the holder. Stored last.
    cookie / set_cookie: u64 = load64 store64 cookie;
});

impl<'a> Shared<'a, Origin> {
    /// The place's record.
    #[inline(always)]
    pub fn record(self) -> Shared<'a, Record> {
        self.part(offset_of!(Origin, record))
    }

    /// Claims on the place.
    #[inline(always)]
    pub fn count(self) -> u32 {
        self.load32(offset_of!(Origin, count))
    }

    /// Adds a claim.
    #[inline(always)]
    pub fn claim(self) {
        self.add32(offset_of!(Origin, count), 1);
    }

    /// Takes a claim back.
    #[inline(always)]
    pub fn unclaim(self) {
        self.add32(offset_of!(Origin, count), u32::MAX);
    }

    /// Live sockets of this place that have an entry in the overflow.
    #[inline(always)]
    pub fn spilled(self) -> u32 {
        self.load32(offset_of!(Origin, spilled))
    }

    /// Counts one more of them.
    #[inline(always)]
    pub fn spill(self) {
        self.add32(offset_of!(Origin, spilled), 1);
    }

    /// Counts one less.
    #[inline(always)]
    pub fn unspill(self) {
        self.add32(offset_of!(Origin, spilled), u32::MAX);
    }

    /// A copy of the place. Its socket may change it between two fields.
    pub fn read(self) -> Origin {
        Origin {
            cookie: self.cookie(),
            count: self.count(),
            spilled: self.spilled(),
            record: self.record().read(),
        }
    }
}

impl<'a> Shared<'a, Overflow> {
    /// The hash of what a record's socket dialled. `at` is below [`crate::layout::OVERFLOW_RECORDS`].
    #[inline(always)]
    pub fn dialled(self, at: usize) -> u32 {
        self.load32(offset_of!(Overflow, dialled) + at * 4)
    }

    /// The hash of a record's backend.
    #[inline(always)]
    pub fn given(self, at: usize) -> u32 {
        self.load32(offset_of!(Overflow, given) + at * 4)
    }

    /// Says by their hashes which frontend and backend a record is of.
    #[inline(always)]
    pub fn set_tags(self, at: usize, dialled: u32, given: u32) {
        self.store32(offset_of!(Overflow, dialled) + at * 4, dialled);
        self.store32(offset_of!(Overflow, given) + at * 4, given);
    }

    /// The record to replace next; any number.
    #[inline(always)]
    pub fn next(self) -> u32 {
        self.load32(offset_of!(Overflow, next))
    }

    /// Says which record gives way next.
    #[inline(always)]
    pub fn set_next(self, next: u32) {
        self.store32(offset_of!(Overflow, next), next);
    }

    /// The client that the entry is counted for.
    #[inline(always)]
    pub fn client(self) -> u32 {
        self.load32(offset_of!(Overflow, client))
    }

    /// Sets the client that the entry is counted for.
    #[inline(always)]
    pub fn set_client(self, client: u32) {
        self.store32(offset_of!(Overflow, client), client);
    }

    /// A record. `at` is below [`crate::layout::OVERFLOW_RECORDS`].
    #[inline(always)]
    pub fn record(self, at: usize) -> Shared<'a, Record> {
        self.part(offset_of!(Overflow, records) + at * size_of::<Record>())
    }
}

impl Shared<'_, ClientRow> {
    /// A count, by its place among the row's.
    #[inline(always)]
    pub fn count(self, at: usize) -> i32 {
        self.load32(at * 4).cast_signed()
    }

    /// Adds to a count.
    #[inline(always)]
    pub fn add(self, at: usize, entries: i32) {
        self.add32(at * 4, entries.cast_unsigned());
    }
}
