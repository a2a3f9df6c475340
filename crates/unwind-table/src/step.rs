//! One step of a walk: from a frame to its caller.
//!
//! A rule decides where there is one. Where there is none (anonymous memory, gaps between functions) the frame pointer does,
//! believed only where it makes sense, and for a leaf first what lies on top of the stack, since it may have no frame yet, or
//! none at all.
//!
//! **In**: [`Walk`], [`Memory`]. **Out**: the same walk at the caller, or an [`End`]. **Limits**: two look-ups of mappings for a leaf
//! without a rule, one otherwise; at most six reads of the stack.

use crate::arch::Arch;
use crate::format::low;
use crate::rule::{Kind, Rule};
use crate::search::{self, enter};
use crate::walk::{
    End, FLAG_CHAINED, FLAG_EXACT, FLAG_FROM_FP, FLAG_LEAF_REGISTERS, MAX_FRAMES, MAX_SIGNALS, WINDOW_WORDS, Walk,
};

/// No stack lies in the first page.
const LOWEST_SP: u64 = 4096;
/// How far above the stack pointer a frame pointer may point to memory that cannot be read, and still be believed.
const MAX_STACK_BYTES: u64 = 8 << 20;

/// What a walk reads. In the kernel: maps, and the task's own user memory. Elsewhere: copies of both.
pub trait Memory: Sized {
    /// A shard that was looked up.
    type Shard: Copy;

    /// Looks a shard up; none where there is none.
    fn shard(&mut self, shard: u32) -> Option<Self::Shard>;

    /// Two bytes of a shard. `at` may be any number: it wraps within the shard, and is rounded down to a multiple of two.
    fn load16(&self, shard: Self::Shard, at: u32) -> u32;

    /// Four bytes, in the same way.
    fn load32(&self, shard: Self::Shard, at: u32) -> u32;

    /// Eight bytes, in the same way.
    fn load64(&self, shard: Self::Shard, at: u32) -> u64;

    /// Copies user memory from an address up; returns how many words there are, 0 where the first cannot be read.
    fn stack(&mut self, address: u64, window: &mut [u64; WINDOW_WORDS]) -> u32;

    /// [`fill`], in the same way as the next two.
    #[inline(always)]
    fn fill(&mut self, walk: &mut Walk, address: u64) -> bool {
        fill(walk, self, address)
    }

    /// [`crate::find`]. A program in the kernel makes a function of its own of it, which the verifier goes through once and not
    /// for every way that leads there.
    #[inline(always)]
    fn find(&mut self, walk: &mut Walk, address: u64) -> bool {
        search::find(walk, self, address)
    }

    /// [`crate::rule`], in the same way.
    #[inline(always)]
    fn rule(&mut self, walk: &mut Walk, address: u64) -> End {
        search::rule(walk, self, address)
    }
}

/// Takes one step. [`End::GOING_ON`]: the walk stands at the caller.
///
/// The frame that the walk stood at is in [`Walk::addresses`] afterwards, whatever the end, but for two cases: the limit was
/// reached, or the frame made no sense.
#[inline(always)]
pub fn step<A: Arch, M: Memory>(walk: &mut Walk, memory: &mut M) -> End {
    let depth = walk.frames;
    if depth >= walk.limit || depth >= MAX_FRAMES {
        return End::TOO_MANY_FRAMES;
    }
    if walk.mapping_count == 0 {
        return End::UNKNOWN_PROCESS;
    }
    if depth != 0 && walk.pc == 0 {
        return End::ROOT;
    }
    let exact = walk.flags & FLAG_EXACT;
    let lookup = walk.pc.wrapping_sub(1).wrapping_add(exact as u64);
    let mut in_file = false;
    let mut unknown = false;
    if lookup.wrapping_sub(walk.start) >= walk.bytes {
        if memory.find(walk, lookup) {
            enter(walk, memory);
        } else if depth != 0 {
            return if walk.flags & FLAG_FROM_FP != 0 { End::NO_TABLE } else { End::BAD_FRAME };
        } else {
            unknown = true;
        }
    }
    walk.addresses[(depth & (MAX_FRAMES - 1)) as usize] = lookup;
    walk.frames = depth.wrapping_add(1);
    walk.rule = 0;
    if !unknown {
        let found = memory.rule(walk, lookup);
        in_file = found.0 != End::NO_TABLE.0;
        if in_file && found.0 != End::GOING_ON.0 {
            return found;
        }
    }
    let rule = Rule(walk.rule);
    let kind = rule.kind().0;
    if kind == Kind::END.0 {
        return End::ROOT;
    }
    if kind == Kind::SIGNAL.0 {
        // A handler's return address is the first byte of the restorer, and the byte before is another function's.
        walk.addresses[(depth & (MAX_FRAMES - 1)) as usize] = walk.pc;
        return out_of_signal::<A, M>(walk, memory);
    }
    let other_register = kind == Kind::REGISTER.0 && walk.flags & FLAG_LEAF_REGISTERS != 0;
    walk.flags &= !FLAG_LEAF_REGISTERS;
    if kind == Kind::GAP.0 || (kind >= Kind::LEAF.0 && !other_register) {
        let end = without_row::<A, M>(walk, memory, lookup, in_file);
        // Called through a wild pointer, or mapped a moment ago: the caller may be found, but nothing else is sure.
        return if unknown && end.0 != End::GOING_ON.0 { End::BAD_FRAME } else { end };
    }
    by_row::<A, M>(walk, memory)
}

/// The caller by a rule that has a CFA.
#[inline(always)]
fn by_row<A: Arch, M: Memory>(walk: &mut Walk, memory: &mut M) -> End {
    let rule = Rule(walk.rule);
    let kind = rule.kind().0;
    if walk.sp < LOWEST_SP {
        return End::BAD_FRAME;
    }
    let mut cfa = walk.sp;
    if kind == Kind::FP.0 || kind == Kind::FP_DEREF.0 {
        cfa = walk.fp;
        if kind == Kind::FP.0 && !plausible_fp(walk) {
            return End::BAD_FRAME;
        }
    } else if kind == Kind::REGISTER.0 {
        cfa = walk.leaf[low(rule.high()) as usize & 15];
    }
    cfa = cfa.wrapping_add(rule.offset());
    let ra;
    if kind == Kind::SP.0 || kind == Kind::FP.0 {
        ra = cfa.wrapping_add(rule.ra_slot());
    } else if kind == Kind::PLT.0 {
        if walk.pc & 15 >= rule.high() {
            cfa = cfa.wrapping_add(8);
        }
        ra = cfa.wrapping_sub(8);
    } else if kind == Kind::REGISTER.0 {
        ra = cfa.wrapping_sub(8);
    } else {
        if !read(walk, memory, cfa) {
            return End::UNREADABLE;
        }
        cfa = walk.value.wrapping_add(rule.high());
        ra = cfa.wrapping_sub(8);
    }
    let mut fp = walk.fp;
    if !rule.keeps_fp() {
        let slot = if rule.fp_from_fp() { fp } else { cfa };
        if !read(walk, memory, slot.wrapping_add(rule.fp_slot())) {
            return End::UNREADABLE;
        }
        fp = walk.value;
    }
    if !A::CALL_PUSHES && rule.keeps_ra() {
        // Only a leaf's is still there.
        if walk.flags & FLAG_EXACT == 0 {
            return End::BAD_FRAME;
        }
        walk.value = walk.lr;
    } else if !read(walk, memory, ra) {
        return End::UNREADABLE;
    }
    walk.flags &= !FLAG_CHAINED;
    let pc = walk.value;
    caller::<A>(walk, pc, cfa, fp)
}

/// From a signal handler's frame to what it interrupted.
#[inline(always)]
fn out_of_signal<A: Arch, M: Memory>(walk: &mut Walk, memory: &mut M) -> End {
    let sp = walk.sp;
    walk.signals = walk.signals.wrapping_add(1);
    if walk.signals > MAX_SIGNALS {
        return End::BAD_FRAME;
    }
    if !read(walk, memory, sp.wrapping_add(A::SIGNAL.fp)) {
        return End::UNREADABLE;
    }
    walk.fp = walk.value;
    if A::SIGNAL.lr != 0 {
        if !read(walk, memory, sp.wrapping_add(A::SIGNAL.lr)) {
            return End::UNREADABLE;
        }
        walk.lr = walk.value;
    }
    if !read(walk, memory, sp.wrapping_add(A::SIGNAL.sp)) {
        return End::UNREADABLE;
    }
    walk.sp = walk.value;
    if !read(walk, memory, sp.wrapping_add(A::SIGNAL.pc)) {
        return End::UNREADABLE;
    }
    walk.pc = walk.value;
    walk.flags = FLAG_EXACT;
    End::GOING_ON
}

/// The caller where no row leads on.
#[inline(always)]
fn without_row<A: Arch, M: Memory>(walk: &mut Walk, memory: &mut M, lookup: u64, in_file: bool) -> End {
    let rule = Rule(walk.rule);
    let kind = rule.kind().0;
    let tells_of_leaf = kind == Kind::LEAF.0 || kind == Kind::SWITCH.0;
    walk.guesses = walk.guesses.wrapping_add(1);
    if walk.flags & FLAG_EXACT != 0 && kind != Kind::UNSUPPORTED.0 && kind != Kind::REGISTER.0 {
        if !A::CALL_PUSHES {
            let lr = walk.lr & A::ADDRESS_MASK;
            if lr.wrapping_sub(1) != lookup && is_code(walk, memory, lr) {
                // A leaf without a frame has its return address in a register; one with a frame has it in both places.
                let same = read(walk, memory, walk.fp.wrapping_add(8)) && walk.value == walk.lr;
                if !same {
                    walk.pc = lr;
                    walk.lr = 0;
                    walk.flags &= !(FLAG_EXACT | FLAG_FROM_FP);
                    return End::GOING_ON;
                }
            }
        } else if walk.sp >= LOWEST_SP {
            let slot = if tells_of_leaf { rule.offset().wrapping_sub(8) } else { 0 };
            let at = walk.sp.wrapping_add(slot);
            let mut fp = walk.fp;
            if tells_of_leaf {
                if !rule.keeps_fp() {
                    if !read(walk, memory, at.wrapping_sub(8)) {
                        return End::UNREADABLE;
                    }
                    fp = walk.value;
                }
                if !read(walk, memory, at) {
                    return End::UNREADABLE;
                }
            } else if !read(walk, memory, at) {
                walk.value = 0;
            }
            let below = walk.value;
            if is_code(walk, memory, below) {
                return caller::<A>(walk, below, at.wrapping_add(8), fp);
            }
            // Between `push %rbp` and `mov %rsp, %rbp`.
            if !tells_of_leaf && below == walk.fp && read(walk, memory, at.wrapping_add(8)) {
                let above = walk.value;
                if is_code(walk, memory, above) {
                    return caller::<A>(walk, above, at.wrapping_add(16), fp);
                }
            }
        }
    }
    by_frame_pointer::<A, M>(walk, memory, in_file)
}

/// The caller by the frame pointer, where that leads somewhere.
#[inline(always)]
fn by_frame_pointer<A: Arch, M: Memory>(walk: &mut Walk, memory: &mut M, in_file: bool) -> End {
    let fp = walk.fp;
    if fp == 0 {
        // The outermost frame's mark, where C libraries and Go begin. A leaf's may be anything, and so may what generated
        // code leaves in the register unless frames with records led here.
        let marks = walk.flags & FLAG_EXACT == 0 && (in_file || walk.flags & FLAG_CHAINED != 0);
        return if marks { End::ROOT } else { End::NO_TABLE };
    }
    if !plausible_fp(walk) {
        let switches = Rule(walk.rule).kind().0 == Kind::SWITCH.0;
        if !switches || !sane_fp(fp) || walk.signals >= MAX_SIGNALS {
            return End::NO_TABLE;
        }
        // The stack that was left lies below. From here on "above" is counted there.
        walk.signals = walk.signals.wrapping_add(1);
        walk.sp = fp;
    }
    if !read(walk, memory, fp) {
        return if fp.wrapping_sub(walk.sp) < MAX_STACK_BYTES { End::UNREADABLE } else { End::NO_TABLE };
    }
    let saved = walk.value;
    if !read(walk, memory, fp.wrapping_add(8)) {
        return if fp.wrapping_sub(walk.sp) < MAX_STACK_BYTES { End::UNREADABLE } else { End::NO_TABLE };
    }
    let pc = walk.value;
    if pc == 0 {
        return End::ROOT;
    }
    let end = caller::<A>(walk, pc, fp.wrapping_add(16), saved);
    walk.flags |= FLAG_FROM_FP | FLAG_CHAINED;
    end
}

/// Goes on to a caller, if that is above. Whether its pc is code is seen with the next step.
#[inline(always)]
fn caller<A: Arch>(walk: &mut Walk, pc: u64, sp: u64, fp: u64) -> End {
    let leaf_without_frame = sp == walk.sp && !A::CALL_PUSHES && walk.flags & FLAG_EXACT != 0;
    if sp <= walk.sp && !leaf_without_frame {
        return End::BAD_FRAME;
    }
    let pc = pc & A::ADDRESS_MASK;
    walk.pc = pc;
    walk.sp = sp;
    walk.fp = fp;
    walk.lr = if A::CALL_PUSHES { 0 } else { pc };
    walk.flags &= !(FLAG_EXACT | FLAG_FROM_FP);
    End::GOING_ON
}

/// Aligned, and not below the stack pointer.
#[inline(always)]
fn plausible_fp(walk: &Walk) -> bool {
    walk.fp >= walk.sp && sane_fp(walk.fp)
}

/// Aligned, and somewhere.
#[inline(always)]
fn sane_fp(fp: u64) -> bool {
    fp & 7 == 0 && (LOWEST_SP..u64::MAX - 64).contains(&fp)
}

/// Whether a return address is one.
#[inline(always)]
fn is_code<M: Memory>(walk: &mut Walk, memory: &mut M, pc: u64) -> bool {
    let lookup = pc.wrapping_sub(1);
    lookup.wrapping_sub(walk.start) < walk.bytes || memory.find(walk, lookup)
}

/// Reads a word of the stack into [`Walk::value`], from the window where it is there.
#[inline(always)]
fn read<M: Memory>(walk: &mut Walk, memory: &mut M, address: u64) -> bool {
    let at = address.wrapping_sub(walk.window_start);
    if at & 7 != 0 || at >= walk.window_bytes as u64 {
        return memory.fill(walk, address);
    }
    walk.value = walk.window[(at >> 3) as usize & (WINDOW_WORDS - 1)];
    true
}

/// Moves the window to an address of the stack, and reads its first word into [`Walk::value`]. Whether it can be read.
#[inline(always)]
pub fn fill<M: Memory>(walk: &mut Walk, memory: &mut M, address: u64) -> bool {
    let words = memory.stack(address, &mut walk.window);
    walk.window_start = address;
    walk.window_bytes = words.wrapping_mul(8);
    let [first, ..] = walk.window;
    walk.value = first;
    words != 0
}
