//! The walk over one snapshot.
//!
//! **In**: one process's executable mappings, registers, and a piece of its stack. **Out**: frames and an end.
//! **Units**: [`Walk`] holds process addresses; rules are asked for by ELF address. **Limits**: [`MAX_FRAMES`];
//! each step but those through signal frames must raise the stack pointer.

use profile::{FileOffset, MapEntry, ObjectId, Segment, StackEnd, UserFrame, UserRegisters};

use crate::arch::native;
use crate::cfi::Rule;
use crate::expression::{Memory, Miss};
use crate::unwinder::{MAX_FRAMES, Step, Unwinder};

/// How far above the snapshot a frame pointer may point and still be believed to lead into the part that was cut:
/// the usual limit of a stack.
const MAX_STACK_BYTES: u64 = 8 << 20;
/// No stack lies in the first page.
const LOWEST_SP: u64 = 4096;

/// The piece of stack that was copied.
#[derive(Clone, Copy)]
pub(crate) struct Snapshot<'a> {
    start: u64,
    bytes: &'a [u8],
}

impl Memory for Snapshot<'_> {
    fn read(&mut self, address: u64) -> Result<u64, Miss> {
        let at = address.checked_sub(self.start).ok_or(Miss::Below)?;
        let word = usize::try_from(at).ok().and_then(|at| self.bytes.get(at..)).and_then(<[u8]>::first_chunk::<8>);
        word.map(|w| u64::from_le_bytes(*w)).ok_or(Miss::Above)
    }
}

/// Where a frame is.
#[derive(Clone, Copy)]
struct Place {
    /// The address to look up, in the process.
    lookup: u64,
    /// The object and the ELF address there.
    code: Option<(ObjectId, u64)>,
}

/// How the walk goes on.
enum Next {
    Caller { registers: UserRegisters, exact: bool },
    End(StackEnd),
}

pub(crate) struct Walk<'a> {
    maps: &'a [MapEntry],
    snapshot: Snapshot<'a>,
    registers: UserRegisters,
    /// The pc is one that was executing, not a return address.
    exact: bool,
    /// A signal handler was left, or a function that had gone over to another stack: the snapshot may be of that one.
    left_stack: bool,
    /// The frame pointer was read from the record of a frame that has one.
    chained: bool,
    /// This frame's function goes over to another stack: its frame pointer leads back.
    switched: bool,
}

impl<'a> Walk<'a> {
    pub(crate) fn new(maps: &'a [MapEntry], registers: &UserRegisters, stack: &'a [u8]) -> Self {
        let snapshot = Snapshot { start: registers.sp, bytes: stack };
        Self { maps, snapshot, registers: *registers, exact: true, left_stack: false, chained: false, switched: false }
    }

    pub(crate) fn run(mut self, unwinder: &mut Unwinder, frames: &mut Vec<UserFrame>) -> StackEnd {
        for depth in 0..MAX_FRAMES {
            if depth > 0 && self.registers.pc == 0 {
                return StackEnd::Root;
            }
            let lookup = if self.exact { self.registers.pc } else { self.registers.pc.wrapping_sub(1) };
            let Some(map) = self.map(lookup) else {
                // Called through a wild pointer, or mapped a moment ago: the caller may still be found.
                if depth > 0 {
                    return StackEnd::BadFrame;
                }
                frames.push(UserFrame::Unmapped { address: lookup });
                match self.without_table(Place { lookup, code: None }) {
                    Next::Caller { registers, exact } => (self.registers, self.exact) = (registers, exact),
                    Next::End(_) => return StackEnd::BadFrame,
                }
                continue;
            };
            let place = Place { lookup, code: code_at(unwinder, map, lookup) };
            let next = self.step(unwinder, place, frames);
            match next {
                Next::Caller { registers, exact } => {
                    self.left_stack |= exact;
                    (self.registers, self.exact) = (registers, exact);
                }
                Next::End(end) => return end,
            }
        }
        StackEnd::TooManyFrames
    }

    /// Adds the frame and finds its caller.
    fn step(&mut self, unwinder: &mut Unwinder, place: Place, frames: &mut Vec<UserFrame>) -> Next {
        let Some((object, address)) = place.code else {
            frames.push(UserFrame::Unmapped { address: place.lookup });
            return self.without_table(place);
        };
        let restorer = self.restorer(unwinder, object, address);
        let rule = if restorer { Rule::Signal } else { unwinder.rule(object, address) };
        if rule == Rule::Signal {
            // A handler's return address is the first byte of the restorer, and the byte before is another function.
            let exact = if self.exact { address } else { address.wrapping_add(1) };
            frames.push(UserFrame::Object { object, address: exact });
            return self.out_of_signal();
        }
        frames.push(UserFrame::Object { object, address });
        if is_root(unwinder, object, address, rule) {
            return Next::End(StackEnd::Root);
        }
        let go = unwinder.go(object, address);
        self.switched = go.is_some_and(|go| go.switches);
        if rule == Rule::Uncovered || self.switched {
            return match go {
                Some(go) if self.exact && native::CALL_PUSHES => self.leaf_at(go.distance.into()),
                _ => self.without_table(place),
            };
        }
        match rule {
            Rule::Root => return Next::End(StackEnd::Root),
            // What these rows demand of the frame pointer; `framehop` takes the demand for granted.
            Rule::FramehopByFp if !self.plausible_fp() => return Next::End(StackEnd::BadFrame),
            _ if self.registers.sp < LOWEST_SP => return Next::End(StackEnd::BadFrame),
            _ => {}
        }
        let step = unwinder.step(rule, (object, address), self.exact, &self.registers, &mut self.snapshot);
        match step {
            Step::Caller(registers) => {
                self.chained = false;
                self.checked(registers)
            }
            Step::Root => Next::End(StackEnd::Root),
            Step::Missing(miss) => Next::End(self.missing(miss)),
            Step::Bad => Next::End(StackEnd::BadFrame),
            Step::Unknown => self.by_frame_pointer(true),
        }
    }

    /// Accepts a caller whose registers make sense.
    fn checked(&self, registers: UserRegisters) -> Next {
        let (old, new) = (self.registers.sp, registers.sp);
        let grows = new > old || (new == old && self.exact && !native::CALL_PUSHES);
        if !grows || (registers.pc != 0 && !self.is_code(registers.pc)) {
            return Next::End(StackEnd::BadFrame);
        }
        Next::Caller { registers, exact: false }
    }

    /// From a signal handler's frame to what it interrupted.
    fn out_of_signal(&mut self) -> Next {
        let at = |n: u64| self.registers.sp.wrapping_add(n);
        let mut read = |n| self.snapshot.read(n);
        let mut saved = || -> Result<UserRegisters, Miss> {
            Ok(UserRegisters {
                pc: read(at(native::SIGNAL.pc))?,
                sp: read(at(native::SIGNAL.sp))?,
                fp: read(at(native::SIGNAL.fp))?,
                lr: native::SIGNAL.lr.map_or(Ok(0), |n| read(at(n)))?,
            })
        };
        match saved() {
            Ok(registers) if self.map(registers.pc).is_some() => Next::Caller { registers, exact: true },
            Ok(_) => Next::End(StackEnd::BadFrame),
            Err(miss) => Next::End(self.missing(miss)),
        }
    }

    /// The caller of a leaf whose stack pointer is so far below its return address. Where a frame pointer was saved, it
    /// lies right below that.
    fn leaf_at(&mut self, distance: u64) -> Next {
        let now = self.registers;
        let at = now.sp.wrapping_add(distance);
        let saved = if distance >= 8 { self.snapshot.read(at.wrapping_sub(8)) } else { Ok(now.fp) };
        match (saved, self.snapshot.read(at)) {
            (Ok(fp), Ok(pc)) if self.is_code(pc) => {
                self.checked(UserRegisters { pc, sp: at.wrapping_add(8), fp, lr: 0 })
            }
            (Err(miss), _) | (_, Err(miss)) => Next::End(self.missing(miss)),
            // The stack was switched in between: the frame pointer may still know.
            _ => self.by_frame_pointer(true),
        }
    }

    /// A caller where no table covers the code. On x86-64 the leaf may not have set up its frame yet, or have none.
    fn without_table(&mut self, place: Place) -> Next {
        let now = self.registers;
        if self.exact && native::CALL_PUSHES && now.sp >= LOWEST_SP {
            let below = self.snapshot.read(now.sp);
            let above = self.snapshot.read(now.sp.wrapping_add(8));
            if let Ok(pc) = below
                && self.is_code(pc)
            {
                return self.checked(UserRegisters { pc, sp: now.sp.saturating_add(8), fp: now.fp, lr: 0 });
            }
            if let (Ok(fp), Ok(pc)) = (below, above)
                && fp == now.fp
                && self.is_code(pc)
            {
                return self.checked(UserRegisters { pc, sp: now.sp.saturating_add(16), fp, lr: 0 });
            }
        }
        if self.exact && !native::CALL_PUSHES && self.is_code(now.lr) && now.lr.wrapping_sub(1) != place.lookup {
            // A leaf without a frame has its return address in a register; one with a frame has it in both places.
            if self.snapshot.read(now.fp.wrapping_add(8)) != Ok(now.lr) {
                return Next::Caller { registers: UserRegisters { pc: now.lr, lr: 0, ..now }, exact: false };
            }
        }
        self.by_frame_pointer(place.code.is_some())
    }

    /// The caller by the frame pointer, where that leads somewhere.
    fn by_frame_pointer(&mut self, in_file: bool) -> Next {
        let now = self.registers;
        if now.fp == 0 {
            // The outermost frame's mark, where C libraries and Go begin. A leaf's may be anything, and so may what
            // generated code leaves in the register unless frames with records led here.
            let marks = !self.exact && (self.chained || in_file);
            return Next::End(if marks { StackEnd::Root } else { StackEnd::NoTable });
        }
        if !self.plausible_fp() {
            if !self.switched || !self.sane_fp() {
                return Next::End(StackEnd::NoTable);
            }
            // The stack that was left lies below. From here on "above" is counted there.
            self.left_stack = true;
            self.registers.sp = now.fp;
        }
        match (self.snapshot.read(now.fp), self.snapshot.read(now.fp.wrapping_add(8))) {
            (Ok(_), Ok(0)) => Next::End(StackEnd::Root),
            (Ok(fp), Ok(pc)) if self.is_code(pc) => {
                self.chained = true;
                self.checked(UserRegisters { pc, sp: now.fp.saturating_add(16), fp, lr: pc })
            }
            (Ok(_), Ok(_)) => Next::End(StackEnd::NoTable),
            _ if self.left_stack || now.fp.wrapping_sub(self.snapshot.start) < MAX_STACK_BYTES => {
                Next::End(self.missing(Miss::Above))
            }
            _ => Next::End(StackEnd::NoTable),
        }
    }

    /// Aligned, and not below the stack pointer.
    fn plausible_fp(&self) -> bool {
        self.registers.fp >= self.registers.sp && self.sane_fp()
    }

    /// Aligned, and somewhere.
    fn sane_fp(&self) -> bool {
        let fp = self.registers.fp;
        fp.is_multiple_of(8) && (LOWEST_SP..u64::MAX - 64).contains(&fp)
    }

    fn missing(&self, miss: Miss) -> StackEnd {
        match miss {
            Miss::Above => StackEnd::TruncatedSnapshot,
            // The handler ran on a stack of its own, and the snapshot is of that one.
            Miss::Below if self.left_stack => StackEnd::TruncatedSnapshot,
            Miss::Below => StackEnd::BadFrame,
        }
    }

    fn map(&self, address: u64) -> Option<&'a MapEntry> {
        let above = self.maps.partition_point(|m| m.start <= address);
        self.maps.get(above.checked_sub(1)?).filter(|m| address < m.end)
    }

    /// Whether a return address is one.
    fn is_code(&self, pc: u64) -> bool {
        self.map(pc.wrapping_sub(1)).is_some()
    }

    /// Whether a place is in code that returns from a signal handler.
    fn restorer(&self, unwinder: &Unwinder, object: ObjectId, address: u64) -> bool {
        let pc = if self.exact { address } else { address.wrapping_add(1) };
        let within = |&start: &u64| pc.checked_sub(start).is_some_and(|n| n < native::RESTORER_BYTES);
        unwinder.object(object).is_some_and(|loaded| loaded.blob.restorers.iter().any(within))
    }
}

fn code_at(unwinder: &Unwinder, map: &MapEntry, address: u64) -> Option<(ObjectId, u64)> {
    let object = map.object?;
    let loaded = unwinder.object(object)?;
    let offset = FileOffset(map.file_offset.checked_add(address.checked_sub(map.start)?)?);
    let find = |executable: bool| {
        let segments = loaded.blob.segments.iter().filter(|s: &&Segment| s.executable == executable);
        segments.filter_map(|s| s.elf_address_of(offset)).next()
    };
    find(true).or_else(|| find(false)).map(|elf| (object, elf.0))
}

fn is_root(unwinder: &Unwinder, object: ObjectId, address: u64, rule: Rule) -> bool {
    let lonely = matches!(rule, Rule::Uncovered | Rule::Root);
    let roots = unwinder.object(object).map(|loaded| loaded.blob.roots.as_slice()).unwrap_or_default();
    roots.iter().any(|root| root.range.contains(&address) && (root.always || lonely))
}
