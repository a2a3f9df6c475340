//! Where a walk stands: the contract between its stages.

/// Frames of one stack at the most; [`Walk::limit`] may be less.
pub const MAX_FRAMES: u32 = 1024;
/// How often a stack may go on in another one, by a signal's frame or by [`crate::Kind::SWITCH`]: that may lie lower, so the stack
/// pointer bounds nothing there.
pub const MAX_SIGNALS: u32 = 32;
/// Words of stack that are read at once.
pub const WINDOW_WORDS: usize = 64;

/// [`Walk::pc`] was executing (a leaf, or what a signal interrupted); else it is a return address.
pub const FLAG_EXACT: u32 = 1 << 0;
/// The registers come from a frame pointer's record: a guess, where no row covers the code.
pub const FLAG_FROM_FP: u32 = 1 << 1;
/// The frame pointer was read from the record of a frame that has one.
pub const FLAG_CHAINED: u32 = 1 << 2;

/// [`Walk::leaf`] holds the leaf's registers.
pub const FLAG_LEAF_REGISTERS: u32 = 1 << 3;

/// Why a walk ended; [`End::GOING_ON`] where it has not.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct End(pub u32);

impl End {
    /// The caller's registers are in the walk: take the next step.
    pub const GOING_ON: Self = Self(0);
    /// The outermost function was reached. (`StackEnd::Root`)
    pub const ROOT: Self = Self(1);
    /// A word of the stack that was needed cannot be read. (`StackEnd::TruncatedSnapshot`)
    pub const UNREADABLE: Self = Self(2);
    /// No row covers the address, and the frame pointer led nowhere. (`StackEnd::NoTable`)
    pub const NO_TABLE: Self = Self(3);
    /// The next frame made no sense: not above the last, or not in executable memory. (`StackEnd::BadFrame`)
    pub const BAD_FRAME: Self = Self(4);
    /// More frames than the limit. (`StackEnd::TooManyFrames`)
    pub const TOO_MANY_FRAMES: Self = Self(5);
    /// The process has no mappings here. (`StackEnd::UnknownProcess`)
    pub const UNKNOWN_PROCESS: Self = Self(6);
    /// The last frame's file has a table that is not loaded: this sample needs a snapshot. No end of a stack that is
    /// shown; where no snapshot is to be had, as [`End::NO_TABLE`].
    pub const PENDING: Self = Self(7);
    /// A shard that a place names is not there: the tables are changing under the walk. As [`End::PENDING`].
    pub const NO_SHARD: Self = Self(8);
}

/// Where a walk stands.
///
/// One of these per CPU lives in map memory. Before the first step [`Walk::begin`] sets it up; each step reads the
/// registers of one frame from it, appends the frame to [`Walk::addresses`] and leaves the caller's registers; a later stage
/// (an interpreter's program, which knows how to go on from its own frames) does the same: it may append several frames, must
/// leave registers of a frame that it did not append, must clear or set [`Walk::flags`] for them, and may leave everything
/// else as it is: mapping and window are caches that hold for any address.
#[repr(C)]
#[derive(Clone, Debug)]
pub struct Walk {
    /// Program counter of the frame that is next.
    pub pc: u64,
    /// Its stack pointer.
    pub sp: u64,
    /// Its frame pointer.
    pub fp: u64,
    /// Its link register; 0 on x86-64.
    pub lr: u64,
    /// `FLAG_*`.
    pub flags: u32,
    /// Frames in [`Walk::addresses`].
    pub frames: u32,
    /// Frames wanted at the most; [`MAX_FRAMES`] bounds it.
    pub limit: u32,
    /// How often the stack went on elsewhere: behind a signal, or where it had been left.
    pub signals: u32,
    /// Steps that a frame pointer led or the top of the stack: what an oracle may see differently.
    pub guesses: u32,
    /// [`crate::Place`] of the process's mappings.
    pub mappings: u32,
    /// How many there are.
    pub mapping_count: u32,
    /// Offset of the mapping that was found last, in the shard of `mappings`.
    pub(crate) found: u32,
    /// The mapping of the last frame: its first address.
    pub(crate) start: u64,
    /// Its bytes; 0: none.
    pub(crate) bytes: u64,
    /// The address that its file's first block covers.
    pub(crate) base: u64,
    pub(crate) blocks: u32,
    pub(crate) anchors: u32,
    pub(crate) rules: u32,
    /// Bytes in `window`.
    pub(crate) window_bytes: u32,
    /// The address of the first.
    pub(crate) window_start: u64,
    /// What was read last.
    pub(crate) value: u64,
    /// The rule that was found last.
    pub(crate) rule: u64,
    /// The leaf's registers by their DWARF numbers, as far as the machine has sixteen. Valid with [`FLAG_LEAF_REGISTERS`], which who
    /// begins a walk may set; it goes with the first step.
    pub leaf: [u64; 16],
    pub(crate) window: [u64; WINDOW_WORDS],
    /// Lookup addresses (the pc of leaves and of what a signal interrupted, else the return address minus one), leaf first.
    pub addresses: [u64; MAX_FRAMES as usize],
}

const _: () = assert!(size_of::<Walk>() == 256 + WINDOW_WORDS * 8 + MAX_FRAMES as usize * 8);

impl Default for Walk {
    fn default() -> Self {
        Self {
            pc: 0,
            sp: 0,
            fp: 0,
            lr: 0,
            flags: 0,
            frames: 0,
            limit: 0,
            signals: 0,
            guesses: 0,
            mappings: 0,
            mapping_count: 0,
            found: 0,
            start: 0,
            bytes: 0,
            base: 0,
            blocks: 0,
            anchors: 0,
            rules: 0,
            window_bytes: 0,
            window_start: 0,
            value: 0,
            rule: 0,
            leaf: [0; 16],
            window: [0; WINDOW_WORDS],
            addresses: [0; MAX_FRAMES as usize],
        }
    }
}

impl Walk {
    /// Begins at a leaf, in a process with so many mappings at a place. What is left of another walk is forgotten.
    #[inline(always)]
    pub fn begin(&mut self, registers: [u64; 4], mappings: u32, mapping_count: u32, limit: u32) {
        let [pc, sp, fp, lr] = registers;
        (self.pc, self.sp, self.fp, self.lr) = (pc, sp, fp, lr);
        self.flags = FLAG_EXACT;
        self.frames = 0;
        self.limit = limit;
        self.signals = 0;
        self.guesses = 0;
        self.mappings = mappings;
        self.mapping_count = mapping_count;
        self.bytes = 0;
        self.window_bytes = 0;
    }

    /// The frames, leaf first.
    #[cfg(feature = "std")]
    #[must_use]
    pub fn stack(&self) -> &[u64] {
        let frames = usize::try_from(self.frames).unwrap_or(0);
        self.addresses.get(..frames).unwrap_or(&self.addresses)
    }
}
