//! Values that instructions name: by what they are, in the opened form.
//!
//! A module numbers its values: variables, functions, constants, then in each function parameters, constants and what instructions make. An instruction
//! names one by how far back it is, so that one instruction more changes what all the later ones say of functions and constants. In the form it
//! is told of which of these kinds the value is, and which one of its kind, unless an instruction of the function makes it.
//!
//! Which numbers are names is told by the code of the record ([`names`]). Where values are counted wrongly, because a record is of a kind not
//! known here, forms are longer; they come back all the same, as both directions count alike.

use super::Fault;
use super::stream::Record;
use std::collections::VecDeque;

const MODULE: u64 = 8;
const CONSTANTS: u64 = 11;
const FUNCTION: u64 = 12;
const TYPES: u64 = 17;

/// Records of a module.
const MODULE_VERSION: u64 = 1;
const MODULE_VARIABLE: u64 = 7;
const MODULE_FUNCTION: u64 = 8;
const MODULE_OLD_ALIAS: u64 = 9;
const MODULE_ALIAS: u64 = 14;
const MODULE_RESOLVER: u64 = 15;

/// Records that make no type; a type without values, and that of a function.
const TYPE_COUNT: u64 = 1;
const TYPE_NAME: u64 = 19;
const TYPE_VOID: u64 = 2;
const TYPE_FUNCTION: u64 = 21;

/// The record of constants that makes none.
const CONSTANT_TYPE: u64 = 1;

const BINARY: u64 = 2;
const CAST: u64 = 3;
const EXTRACT_ELEMENT: u64 = 6;
const INSERT_ELEMENT: u64 = 7;
const SHUFFLE: u64 = 8;
const OLD_COMPARE: u64 = 9;
const RETURN: u64 = 10;
const BRANCH: u64 = 11;
const SWITCH: u64 = 12;
const INVOKE: u64 = 13;
const PHI: u64 = 16;
const ALLOCATE: u64 = 19;
const LOAD: u64 = 20;
const ARGUMENT: u64 = 23;
const EXTRACT: u64 = 26;
const INSERT: u64 = 27;
const COMPARE: u64 = 28;
const SELECT: u64 = 29;
const CALL: u64 = 34;
const RESUME: u64 = 39;
const LANDING: u64 = 40;
const ATOMIC_LOAD: u64 = 41;
const ELEMENT: u64 = 43;
const STORE: u64 = 44;
const ATOMIC_STORE: u64 = 45;
const EXCHANGE_IF: u64 = 46;
const CATCH_PAD: u64 = 50;
const CLEANUP_PAD: u64 = 51;
const CATCH_SWITCH: u64 = 52;
const BUNDLE: u64 = 55;
const UNARY: u64 = 56;
const FREEZE: u64 = 58;
const EXCHANGE: u64 = 59;

/// Bits of a call's second number: the type of the function is told; flags of arithmetic stand before it.
const CALL_TYPED: u64 = 1 << 15;
const CALL_FLAGS: u64 = 1 << 17;
/// The same of an invocation.
const INVOKE_TYPED: u64 = 1 << 13;

/// Types and functions with bodies beyond so many are not known.
const MAX_KNOWN: usize = 1 << 20;

/// Names of values of a kind below this have 16 bits, the kind among them.
const SHORT: u64 = 1 << 13;
const SHORT_BITS: u32 = 13;
/// Longer ones start here; their last bits are the kind.
const LONG: u64 = 1 << 16;
const KIND_BITS: u32 = 3;

/// Which way the numbers go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    Open,
    Close,
}

/// A type, as far as it matters.
#[derive(Debug, Clone, Copy)]
enum Type {
    Void,
    Function { result: u64, parameters: u64 },
    Other,
}

/// How a number names a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Name {
    /// By how far back it is.
    Back,
    /// The same, doubled; plus 1 of the magnitude where it is to come.
    SignedBack,
    /// By its number.
    Number,
}

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Meaning {
    direction: Direction,
    types: Vec<Type>,
    /// Types of functions whose bodies are to come.
    bodies: VecDeque<u64>,
    /// Whether names of variables and functions are elsewhere, which takes two numbers.
    named_elsewhere: bool,
    /// Where the last such name ends.
    names_end: u64,
    /// Values of the module: variables; with functions and the like; with constants.
    variables: u64,
    globals: u64,
    module_values: u64,
    in_function: bool,
    /// The number of the first value that an instruction of the function makes, and of the next value.
    first: u64,
    next: u64,
}

impl Meaning {
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            direction,
            types: Vec::new(),
            bodies: VecDeque::new(),
            named_elsewhere: false,
            names_end: 0,
            variables: 0,
            globals: 0,
            module_values: 0,
            in_function: false,
            first: 0,
            next: 0,
        }
    }

    /// A block begins.
    pub(super) fn enter(&mut self, block: u64) {
        match block {
            MODULE => *self = Self::new(self.direction),
            FUNCTION => {
                let body = self.bodies.pop_front().map(|body| self.type_of(body));
                let parameters = match body {
                    Some(Type::Function { parameters, .. }) => parameters,
                    _ => 0,
                };
                self.next = self.module_values + parameters;
                (self.in_function, self.first) = (true, self.next);
            }
            _ => {}
        }
    }

    /// A block ends.
    pub(super) fn leave(&mut self, block: u64) {
        if block == FUNCTION {
            self.in_function = false;
        }
    }

    /// Converts the names in a record, and counts what it makes.
    pub(super) fn record(&mut self, block: u64, record: &mut Record) -> Result<(), Fault> {
        let numbers = &mut record.numbers[..];
        match block {
            MODULE => self.module(numbers),
            TYPES => self.make_type(numbers),
            CONSTANTS if numbers.first() != Some(&CONSTANT_TYPE) => {
                if self.in_function {
                    self.next += 1;
                    self.first = self.next;
                } else {
                    self.module_values += 1;
                }
            }
            FUNCTION => {
                self.names(numbers)?;
                if self.makes(numbers) {
                    self.next += 1;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn type_of(&self, number: u64) -> Type {
        let known = usize::try_from(number).ok().and_then(|number| self.types.get(number));
        known.copied().unwrap_or(Type::Other)
    }

    fn module(&mut self, numbers: &mut [u64]) {
        if let [MODULE_VERSION, version, ..] = *numbers {
            self.named_elsewhere = version >= 2;
        }
        let &mut [code, ref mut rest @ ..] = numbers else { return };
        let is_value = [MODULE_VARIABLE, MODULE_FUNCTION, MODULE_OLD_ALIAS, MODULE_ALIAS, MODULE_RESOLVER];
        if !is_value.contains(&code) {
            return;
        }
        self.variables += u64::from(code == MODULE_VARIABLE);
        self.globals += 1;
        self.module_values += 1;
        if self.named_elsewhere
            && let [start, count, ..] = rest
        {
            // Names most often stand one behind the other.
            let known = *start;
            *start = match self.direction {
                Direction::Open => known.wrapping_sub(self.names_end),
                Direction::Close => known.wrapping_add(self.names_end),
            };
            let start = if self.direction == Direction::Open { known } else { *start };
            self.names_end = start.wrapping_add(*count);
        }
        let rest = rest.get(if self.named_elsewhere { 2 } else { 0 }..).unwrap_or_default();
        if let (MODULE_FUNCTION, &[of_type, _, 0, ..]) = (code, rest)
            && self.bodies.len() < MAX_KNOWN
        {
            self.bodies.push_back(of_type);
        }
    }

    fn make_type(&mut self, numbers: &[u64]) {
        let made = match *numbers {
            [] | [TYPE_COUNT | TYPE_NAME, ..] => return,
            [TYPE_VOID, ..] => Type::Void,
            [TYPE_FUNCTION, _, result, ref parameters @ ..] => {
                Type::Function { result, parameters: parameters.len() as u64 }
            }
            _ => Type::Other,
        };
        if self.types.len() < MAX_KNOWN {
            self.types.push(made);
        }
    }

    /// Whether an instruction makes a value.
    fn makes(&self, numbers: &[u64]) -> bool {
        let result = |of_type: Option<&u64>| match of_type.map(|of_type| self.type_of(*of_type)) {
            Some(Type::Function { result, .. }) => !matches!(self.type_of(result), Type::Void),
            _ => true,
        };
        match *numbers {
            [BINARY | CAST | EXTRACT_ELEMENT | INSERT_ELEMENT | SHUFFLE | OLD_COMPARE, ..]
            | [PHI | ALLOCATE | LOAD | ARGUMENT | EXTRACT | INSERT | COMPARE | SELECT, ..]
            | [LANDING | ATOMIC_LOAD | ELEMENT | EXCHANGE_IF | EXCHANGE | UNARY | FREEZE, ..]
            | [CATCH_PAD | CLEANUP_PAD | CATCH_SWITCH, ..] => true,
            [CALL, _, flags, ..] if flags & CALL_TYPED != 0 => result(numbers.get(callee(flags) - 1)),
            [INVOKE, _, flags, ..] if flags & INVOKE_TYPED != 0 => result(numbers.get(5)),
            [CALL | INVOKE, ..] => true,
            _ => false,
        }
    }

    /// Converts the names in an instruction.
    fn names(&self, numbers: &mut [u64]) -> Result<(), Fault> {
        let &mut [code, ref mut rest @ ..] = numbers else { return Ok(()) };
        use Name::{Back, Number, SignedBack};
        let (from, count, step, name) = match code {
            CAST | RETURN | LOAD | ATOMIC_LOAD | EXTRACT | RESUME | UNARY | FREEZE => (0, 1, 1, Back),
            BINARY | EXTRACT_ELEMENT | OLD_COMPARE | COMPARE | INSERT | STORE | ATOMIC_STORE | EXCHANGE => {
                (0, 2, 1, Back)
            }
            INSERT_ELEMENT | SHUFFLE | SELECT | EXCHANGE_IF => (0, 3, 1, Back),
            BRANCH => (2, 1, 1, Back),
            SWITCH => {
                self.convert_all(rest.iter_mut().skip(1).take(1), Back)?;
                (3, usize::MAX, 2, Number)
            }
            PHI => (1, usize::MAX, 2, SignedBack),
            ALLOCATE => (2, 1, 1, Number),
            ARGUMENT => (1, 1, 1, Back),
            ELEMENT => (2, usize::MAX, 1, Back),
            BUNDLE => (1, usize::MAX, 1, Back),
            INVOKE => (5, usize::MAX, 1, Back),
            CALL => (callee(rest.get(1).copied().unwrap_or(0)) - 1, usize::MAX, 1, Back),
            _ => return Ok(()),
        };
        self.convert_all(rest.iter_mut().skip(from).step_by(step).take(count), name)
    }

    fn convert_all<'a>(&self, numbers: impl Iterator<Item = &'a mut u64>, name: Name) -> Result<(), Fault> {
        for number in numbers {
            *number = match self.direction {
                Direction::Open => self.open(*number, name)?,
                Direction::Close => self.close(*number, name)?,
            };
        }
        Ok(())
    }

    /// Where the values of each kind begin, the last kind first.
    fn kinds(&self) -> [(u64, u64); 4] {
        [(1, self.module_values), (2, self.globals), (3, self.variables), (4, 0)]
    }

    fn open(&self, number: u64, name: Name) -> Result<u64, Fault> {
        let value = match name {
            Name::Back => self.next.checked_sub(number),
            Name::SignedBack if number & 1 == 0 => self.next.checked_sub(number >> 1),
            Name::SignedBack => None,
            Name::Number => Some(number),
        };
        let (kind, of_kind) = match value.filter(|value| *value < self.first) {
            Some(value) => {
                let kind = self.kinds().into_iter().find(|(_, begin)| *begin <= value);
                kind.map_or((0, number), |(kind, begin)| (kind, value - begin))
            }
            None => (0, number),
        };
        match of_kind {
            0..SHORT => Ok(kind << SHORT_BITS | of_kind),
            _ if of_kind >> (u64::BITS - KIND_BITS - 1) == 0 => Ok(LONG + (of_kind << KIND_BITS | kind)),
            _ => Err(Fault("a value too far away")),
        }
    }

    fn close(&self, number: u64, name: Name) -> Result<u64, Fault> {
        let (kind, of_kind) = match number.checked_sub(LONG) {
            None => (number >> SHORT_BITS, number & (SHORT - 1)),
            Some(long) => (long & ((1 << KIND_BITS) - 1), long >> KIND_BITS),
        };
        if kind == 0 {
            return Ok(of_kind);
        }
        let begin = self.kinds().into_iter().find(|(known, _)| *known == kind);
        let (_, begin) = begin.ok_or("a value of an unknown kind")?;
        // Both are far below 2^63.
        let value = begin + of_kind;
        match name {
            Name::Number => Ok(value),
            Name::Back => self.next.checked_sub(value).ok_or(Fault("a value to come")),
            Name::SignedBack => {
                let back = self.next.checked_sub(value).ok_or("a value to come")?;
                Ok(back << 1)
            }
        }
    }
}

/// Where the function of a call stands among its numbers, by its second one.
fn callee(flags: u64) -> usize {
    3 + usize::from(flags & CALL_FLAGS != 0) + usize::from(flags & CALL_TYPED != 0)
}
