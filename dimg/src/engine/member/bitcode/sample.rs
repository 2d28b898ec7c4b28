//! Small bitcode, made from its opened form.

/// An opened form that is being written.
#[derive(Debug, Clone)]
pub struct Form(pub Vec<u8>);

impl Default for Form {
    fn default() -> Self {
        Self(super::MAGIC.to_vec())
    }
}

impl Form {
    /// A block begins.
    pub fn enter(&mut self, id: u8, width: u8) {
        self.0.extend_from_slice(&[1, id, width]);
    }

    /// A block ends.
    pub fn leave(&mut self) {
        self.0.push(0);
    }

    /// A record without an abbreviation.
    pub fn record(&mut self, code: u8, numbers: &[u64]) {
        self.0.extend_from_slice(&[3, code, u8::try_from(numbers.len()).unwrap_or(0)]);
        numbers.iter().for_each(|number| self.number(*number));
    }

    /// A number.
    pub fn number(&mut self, number: u64) {
        let bytes = number.swap_bytes().to_le_bytes();
        match number {
            0..0xfffe => self.0.extend_from_slice(&bytes[6..]),
            0xfffe..0x1_0000_0000 => {
                self.0.extend_from_slice(&[0xff, 0xfe]);
                self.0.extend_from_slice(&bytes[4..]);
            }
            _ => {
                self.0.extend_from_slice(&[0xff, 0xff]);
                self.0.extend_from_slice(&bytes);
            }
        }
    }

    /// The content.
    ///
    /// # Panics
    /// The form is none.
    #[must_use]
    pub fn content(&self) -> Vec<u8> {
        super::close(&self.0, super::MAX_CONTENT_BYTES).expect("a form")
    }
}

/// A name of a value of a kind: 1 of the function, 2 a constant, 3 a function, 4 a variable of the module.
fn named(kind: u64, which: u64) -> u64 {
    kind << 13 | which
}

/// A module of some functions that call each other, load variables, and have a branch; `more` instructions stand in front of each.
#[must_use]
pub fn module(functions: u64, more: u64) -> Form {
    let mut form = Form::default();
    // Who made it, in six bits a character, and with a number in six bits.
    form.enter(13, 5);
    form.0.extend_from_slice(&[2, 3, 0, 1, 3, 4, 4, 0, 10]);
    form.0.extend_from_slice(b"LLVM14.0.6");
    form.0.extend_from_slice(&[2, 2, 0, 2, 2, 6, 5, 0, 0]);
    form.leave();
    form.enter(8, 3);
    form.record(1, &[2]);
    // Loads in function blocks: literal 20, the name, a type, an alignment, a flag.
    form.enter(0, 2);
    form.record(1, &[12]);
    form.0.extend_from_slice(&[2, 5, 0, 20, 2, 6, 2, 6, 2, 4, 1, 1]);
    form.leave();
    // void, i32, void (i32), i32 (i32)
    form.enter(17, 4);
    form.record(1, &[4]);
    form.record(2, &[]);
    form.record(7, &[32]);
    form.record(21, &[0, 0, 1]);
    form.record(21, &[0, 1, 1]);
    form.leave();
    for name in 0..functions {
        form.record(7, &[if name == 0 { 5 } else { 0 }, 9, 1, 3, 0]);
    }
    for function in 0..functions {
        form.record(8, &[0, 7, 2 + function % 2, 0, 0, 3]);
    }
    form.enter(11, 4);
    form.record(1, &[1]);
    (0..5).for_each(|constant| form.record(4, &[2 * constant]));
    form.leave();
    for function in 0..functions {
        form.enter(12, 4);
        form.record(1, &[2]);
        form.enter(11, 4);
        form.record(4, &[600 * function]);
        form.leave();
        for instruction in 0..more {
            form.record(2, &[named(1, 0), named(2, instruction % 5), 0]);
        }
        for other in (0..functions).step_by(3) {
            // A load by its abbreviation, a call of a function of either type with it, a use of what came of both.
            form.0.push(4);
            [named(4, other), 1, 4].into_iter().for_each(|number| form.number(number));
            form.0.push(0);
            form.record(34, &[0, 1 << 15, 2 + other % 2, named(3, other), 1]);
            form.record(2, &[1, named(1, 1), 4]);
        }
        form.record(16, &[1, 2, 0, named(2, 1), 1, 3, 1]);
        form.record(11, &[1, 0, named(1, 0)]);
        form.record(12, &[1, 1, 0, named(2, 2), 1]);
        form.record(10, &[1]);
        form.leave();
    }
    form.leave();
    // Names, as a blob.
    form.enter(23, 3);
    form.0.extend_from_slice(&[2, 2, 0, 1, 5, 4]);
    form.number(5);
    form.0.extend_from_slice(b"names");
    form.leave();
    form.0.push(0);
    form
}

/// An index of modules with some values each, local ones hashed with `path`.
#[must_use]
pub fn index(modules: u64, values: u64, path: u64) -> Form {
    let mixed = |value: u64| (value + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1 << 63;
    let mut form = Form::default();
    form.enter(8, 3);
    form.enter(20, 3);
    form.record(10, &[9]);
    // Variables: literal 6, two numbers of 8 bits, two of 6, an array.
    form.0.extend_from_slice(&[2, 7, 0, 6, 2, 8, 2, 8, 2, 6, 2, 6, 3, 2, 8]);
    let (mut global, mut local) = (Vec::new(), Vec::new());
    for module in 0..modules {
        let mut step = u64::from(module > 0);
        let name = |value: u64| mixed(100_000 * module + value);
        let mut functions: Vec<u64> = (0..values).map(name).collect();
        functions.sort_unstable();
        for hash in &functions {
            // Names another one, the first variable of its module, and one of another module.
            let last = 1 << 31 | ((modules - 1) * 2 * values + values);
            let last = if module + 1 == modules { values } else { last };
            form.record(4, &[0, step, 0, 9, 0, 0, 1, 0, 0, functions[0], values, last]);
            step = 0;
            global.push(*hash);
        }
        for value in 0..values {
            form.0.push(4);
            [0, 0, 1, 2, 1, *functions.last().unwrap_or(&0)]
                .into_iter()
                .for_each(|number| form.number(number));
            form.record(9, &[1 << 40 | value]);
            local.push(mixed(100_000 * module + value + path * 7_000_000));
        }
    }
    form.record(22, &[0]);
    form.0.extend_from_slice(&[0xff, 0x80, 0x80, 0x80, 0x80, 0x10, 1]);
    let hashes: Vec<u8> = global.iter().chain(&local).flat_map(|hash| hash.to_le_bytes()).collect();
    form.number(hashes.len() as u64);
    form.0.extend_from_slice(&hashes);
    form.leave();
    form.0.push(0);
    form
}
