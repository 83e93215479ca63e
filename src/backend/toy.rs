//! A model without a network: readable nonsense, the same on every machine, in no time.
//!
//! Each next token is a pure function of *all* tokens before it, so a test can compute what an
//! answer must be, and one lost, doubled or foreign token changes the rest of it. The decoder is
//! strict: what llama.cpp would answer with garbage or an abort is a failure here.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::backend::{
    Adapter, DecodeFailure, Decoder, DecoderConfig, Model, ModelInfo, Row, SeqId, Snapshot, Token,
};
use crate::error::Result;

/// The token that ends an answer; the tokens below it are the 256 bytes.
pub const END: Token = 256;

/// How long a step sleeps before it looks whether it is to give up.
const NAP: Duration = Duration::from_millis(5);

const VOCAB: usize = 257;
const WIDTH: usize = 16;
const CONSONANTS: &[u8] = b"bdfgklmnprstvz";
const VOWELS: &[u8] = b"aeiou";

/// The toy model.
#[derive(Debug)]
pub struct Toy {
    /// Time that a step takes, however small; default 2 ms.
    pub step: Duration,
    /// Time that each row adds to its step; default 50 µs.
    pub per_row: Duration,
    /// Tokens after which an answer ends; default never.
    pub ends_after: Option<usize>,
    /// The calls of `decode` that fail, counted from 0. A fatal one has written half its rows.
    pub faults: BTreeMap<u64, DecodeFailure>,
    /// What it says about itself.
    pub info: ModelInfo,
}

impl Default for Toy {
    fn default() -> Self {
        Self {
            step: Duration::from_millis(2),
            per_row: Duration::from_micros(50),
            ends_after: None,
            faults: BTreeMap::new(),
            info: ModelInfo {
                name: "toy".to_owned(),
                architecture: "toy".to_owned(),
                context_train: 1 << 20,
                vocab_size: VOCAB,
                parameters: 0,
                size_bytes: 0,
                kv_bytes_per_token: None,
                divisible: true,
                interruptible: true,
                causal: true,
                pooling: None,
                device: "cpu".to_owned(),
                chat_template: None,
                bos_text: None,
                eos_text: None,
                adapters: Vec::new(),
            },
        }
    }
}

impl Toy {
    /// One that takes no time, for tests.
    pub fn instant() -> Self {
        Self { step: Duration::ZERO, per_row: Duration::ZERO, ..Self::default() }
    }

    /// One with adapters, whose files it does not read.
    pub fn with_adapters(adapters: &[Adapter]) -> Self {
        let mut toy = Self::default();
        toy.info.adapters = adapters.iter().map(|adapter| Arc::clone(&adapter.name)).collect();
        toy
    }

    /// What the model answers greedily to this prompt, computed without any engine.
    ///
    /// ```
    /// use ryot_metrics::backend::toy::Toy;
    /// let answer = Toy::answer(&[104, 105], 8);
    /// assert_eq!(answer.len(), 8);
    /// assert_eq!(answer[1], Toy::answer(&[104, 105, answer[0]], 1)[0]);
    /// ```
    pub fn answer(prompt: &[Token], count: usize) -> Vec<Token> {
        Self::answer_with(0, prompt, count)
    }

    /// The same with an adapter; 0 is the bare model.
    pub fn answer_with(adapter: usize, prompt: &[Token], count: usize) -> Vec<Token> {
        let mut memory = Memory::default();
        for &token in prompt {
            memory.write(0, token, adapter);
        }
        let mut answer = Vec::with_capacity(count);
        for _ in 0..count {
            let token = memory.next();
            memory.write(0, token, adapter);
            answer.push(token);
        }
        answer
    }
}

impl Model for Toy {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn tokenize(&self, text: &str, _add_special: bool, _parse_special: bool) -> Result<Vec<Token>> {
        Ok(text.bytes().map(Token::from).collect())
    }

    fn piece(&self, token: Token) -> Vec<u8> {
        u8::try_from(token).map(|byte| vec![byte]).unwrap_or_default()
    }

    fn is_end(&self, token: Token) -> bool {
        token == END
    }

    fn run(&self, config: &DecoderConfig, body: &mut dyn FnMut(&mut dyn Decoder)) -> Result<()> {
        body(&mut ToyDecoder::new(self, config.clone()));
        Ok(())
    }
}

/// One computed token.
#[derive(Clone, Copy, Debug)]
struct Cell {
    /// The same in all sequences that share the cell.
    number: u64,
    token: Token,
    /// Of all tokens up to this one, and the adapters that they were computed with: order and number
    /// of them both matter.
    digest: u64,
}

/// What a sequence leaves in memory.
#[derive(Clone, Debug, Default)]
struct Memory {
    cells: Vec<Cell>,
    asked: usize,
}

impl Memory {
    fn digest(&self) -> u64 {
        self.cells.last().map_or(0, |cell| cell.digest)
    }

    fn write(&mut self, number: u64, token: Token, adapter: usize) {
        // splitmix64 over the running digest.
        let input = token as u64 ^ (adapter as u64) << 32;
        let mut mixed = (self.digest() ^ input).wrapping_add(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.cells.push(Cell { number, token, digest: mixed ^ (mixed >> 31) });
    }

    /// Consonant, vowel, consonant, vowel, and now and then a space after a vowel.
    fn next(&self) -> Token {
        let digest = self.digest();
        let pick = |letters: &[u8]| Token::from(letters[digest as usize % letters.len()]);
        match u8::try_from(self.cells.last().map_or(0, |cell| cell.token)) {
            Ok(letter) if CONSONANTS.contains(&letter) => pick(VOWELS),
            Ok(letter) if VOWELS.contains(&letter) && digest >> 62 == 0 => Token::from(b' '),
            _ => pick(CONSONANTS),
        }
    }
}

/// The toy's decoder.
#[derive(Debug)]
pub struct ToyDecoder<'model> {
    toy: &'model Toy,
    config: DecoderConfig,
    memories: HashMap<SeqId, Memory>,
    /// Logits by row; empty where none were asked for.
    logits: Vec<Vec<f32>>,
    /// Embeddings by row, if it was made for them.
    embeddings: Vec<[f32; WIDTH]>,
    calls: u64,
    /// Cells written so far: the next one's number.
    cells: u64,
    adapter: usize,
}

impl<'model> ToyDecoder<'model> {
    /// A decoder with nothing in it.
    pub fn new(toy: &'model Toy, config: DecoderConfig) -> Self {
        Self {
            toy,
            config,
            memories: HashMap::new(),
            logits: Vec::new(),
            embeddings: Vec::new(),
            calls: 0,
            cells: 0,
            adapter: 0,
        }
    }

    /// Cells in use; a shared one counts once.
    pub fn used_cells(&self) -> usize {
        let cells = self.memories.values().flat_map(|memory| &memory.cells);
        cells.map(|cell| cell.number).collect::<HashSet<_>>().len()
    }

    /// The tokens that a sequence remembers.
    pub fn remembered(&self, seq: SeqId) -> Vec<Token> {
        let memory = self.memories.get(&seq);
        memory.map_or_else(Vec::new, |memory| memory.cells.iter().map(|c| c.token).collect())
    }

    /// Cells that one sequence can have.
    fn part(&self) -> usize {
        self.config.cells / if self.config.unified { 1 } else { self.config.sequences }
    }

    /// The same tokens in cells of their own.
    fn copy(&mut self, cells: &[Cell]) -> Vec<Cell> {
        let numbers = self.cells..;
        self.cells += cells.len() as u64;
        numbers.zip(cells).map(|(number, &cell)| Cell { number, ..cell }).collect()
    }

    fn write(&mut self, rows: &[Row]) -> std::result::Result<(), DecodeFailure> {
        self.logits.clear();
        self.embeddings.clear();
        for (index, row) in rows.iter().enumerate() {
            self.check(row)?;
            let memory = self.memories.entry(row.seq).or_default();
            memory.write(self.cells, row.token, self.adapter);
            self.cells += 1;
            if self.config.embeddings {
                self.embeddings.push(embedding(memory));
            }
            if row.wants_logits && rows[index + 1..].iter().any(|later| later.seq == row.seq) {
                return Err(fatal(format!("row {index} asks for logits before its last row")));
            }
            memory.asked += usize::from(row.wants_logits);
            let ended = self.toy.ends_after.is_some_and(|count| memory.asked > count);
            self.logits.push(if row.wants_logits { logits(memory, ended) } else { Vec::new() });
        }
        Ok(())
    }

    fn check(&self, row: &Row) -> std::result::Result<(), DecodeFailure> {
        if row.seq as usize >= self.config.sequences {
            return Err(fatal(format!("sequence {} of {}", row.seq, self.config.sequences)));
        }
        if !(0..VOCAB as Token).contains(&row.token) {
            return Err(fatal(format!("token {} of {VOCAB}", row.token)));
        }
        let expected = self.memories.get(&row.seq).map_or(0, |memory| memory.cells.len());
        if expected >= self.part() {
            return Err(DecodeFailure::NoSpace);
        }
        if row.position != expected {
            return Err(fatal(format!(
                "sequence {} has position {} after {expected} tokens",
                row.seq, row.position
            )));
        }
        Ok(())
    }
}

impl Decoder for ToyDecoder<'_> {
    fn adapt(&mut self, adapter: usize) -> std::result::Result<(), DecodeFailure> {
        let known = self.toy.info.adapters.len();
        if adapter > known {
            return Err(fatal(format!("adapter {adapter} of {known}")));
        }
        self.adapter = adapter;
        Ok(())
    }

    fn decode(&mut self, rows: &[Row]) -> std::result::Result<(), DecodeFailure> {
        self.decode_unless(rows, &AtomicBool::new(false))
    }

    fn decode_unless(
        &mut self,
        rows: &[Row],
        halt: &AtomicBool,
    ) -> std::result::Result<(), DecodeFailure> {
        let call = self.calls;
        self.calls += 1;
        let mut left = self.toy.step + self.toy.per_row * rows.len() as u32;
        while !left.is_zero() {
            if halt.load(Ordering::Relaxed) {
                return Err(DecodeFailure::Aborted);
            }
            let nap = left.min(NAP);
            std::thread::sleep(nap);
            left -= nap;
        }
        if rows.is_empty() || rows.len() > self.config.batch_size {
            return Err(fatal(format!("{} rows of {}", rows.len(), self.config.batch_size)));
        }
        if self.used_cells() + rows.len() > self.config.cells {
            return Err(DecodeFailure::NoSpace);
        }
        match self.toy.faults.get(&call) {
            None => self.write(rows),
            Some(failure @ (DecodeFailure::NoSpace | DecodeFailure::Aborted)) => {
                Err(failure.clone())
            }
            Some(failure) => {
                self.write(&rows[..rows.len() / 2])?;
                Err(failure.clone())
            }
        }
    }

    fn logits(&self, row: usize) -> &[f32] {
        let logits = &self.logits[row];
        assert!(!logits.is_empty(), "row {row} did not ask for logits");
        logits
    }

    fn embedding(&self, row: usize) -> Option<&[f32]> {
        self.embeddings.get(row).map(<[f32; WIDTH]>::as_slice)
    }

    fn forget(&mut self, seq: SeqId) {
        self.memories.remove(&seq);
    }

    fn truncate(&mut self, seq: SeqId, length: usize) {
        if let Some(memory) = self.memories.get_mut(&seq) {
            memory.cells.truncate(length);
        }
    }

    fn share(&mut self, from: SeqId, to: SeqId, positions: Range<usize>) -> bool {
        let shared = self.memories[&from].cells[positions.clone()].to_vec();
        if !self.config.unified {
            assert_eq!(positions.start, 0, "a copy is whole");
            let cells = self.copy(&shared);
            self.memories.insert(to, Memory { cells, asked: 0 });
            return true;
        }
        let own = &mut self.memories.entry(to).or_default().cells;
        let end = positions.end.min(own.len());
        own.splice(positions.start..end, shared);
        true
    }

    fn save(&mut self, seq: SeqId) -> Option<Snapshot> {
        let memory = self.memories.get(&seq)?.clone();
        let bytes = (memory.cells.len() * std::mem::size_of::<Cell>()) as u64;
        Some(Snapshot { bytes, content: Box::new(memory) })
    }

    fn restore(&mut self, seq: SeqId, snapshot: &Snapshot) -> bool {
        let Some(memory) = snapshot.content.downcast_ref::<Memory>() else { return false };
        assert!(self.remembered(seq).is_empty(), "sequence {seq} is not empty");
        if self.used_cells() + memory.cells.len() > self.config.cells {
            return false;
        }
        let cells = self.copy(&memory.cells);
        self.memories.insert(seq, Memory { cells, asked: memory.asked });
        true
    }
}

fn fatal(text: String) -> DecodeFailure {
    DecodeFailure::Fatal(text)
}

/// Four bits of the digest in each place.
fn embedding(memory: &Memory) -> [f32; WIDTH] {
    std::array::from_fn(|place| (memory.digest() >> (4 * place) & 15) as f32 - 7.5)
}

/// About four in five for the next token, the rest shared by letters, so that seeds differ.
fn logits(memory: &Memory, ended: bool) -> Vec<f32> {
    let mut logits = vec![f32::NEG_INFINITY; VOCAB];
    if ended {
        logits[END as usize] = 0.0;
        return logits;
    }
    for (offset, letter) in (b'a'..=b'z').enumerate() {
        logits[usize::from(letter)] = (memory.digest() >> offset & 15) as f32;
    }
    logits[memory.next() as usize] = 18.0;
    logits
}
