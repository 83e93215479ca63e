//! Embeddings: one vector for each prompt, pooled from what the model made of its tokens.
//!
//! They are computed on the caller's thread, with a decoder of their own that is as large as the
//! call needs and ends with it; callers take turns. So they never wait for an answer, hold none of
//! the engine's cells, and share its processors. Must not know: scheduling, sampling.

use std::ops::Range;

use crate::backend::{DecodeFailure, Decoder, DecoderConfig, Row, SeqId, Token};
use crate::clock::Nanos;
use crate::engine::client::{Client, Prompt};
use crate::engine::config::{EngineConfig, MAX_PARALLEL};
use crate::engine::pooling::{Pooling, normalize};
use crate::error::{Error, Result};
use crate::event::{Class, Event, FinishReason, Origin, RequestId};

/// What is asked for beside the prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmbedParams {
    /// How the vectors of a prompt's tokens become one. Default as the model's file says, else
    /// [`Pooling::Mean`].
    pub pooling: Option<Pooling>,
    /// Whether each vector's Euclidean length becomes 1. Default true.
    pub normalize: bool,
}

impl Default for EmbedParams {
    fn default() -> Self {
        Self { pooling: None, normalize: true }
    }
}

/// One vector for each prompt, in the order of the prompts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Embeddings {
    /// Numbers in a vector.
    pub width: usize,
    /// All vectors, one after the other.
    pub values: Vec<f32>,
}

impl Client {
    /// Computes an embedding of each prompt, on the calling thread. To the observer, each is a
    /// request that ends without an answer.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use ryot_metrics::backend::toy::Toy;
    /// # use ryot_metrics::clock::MonotonicClock;
    /// # use ryot_metrics::engine::{EmbedParams, Engine, EngineConfig};
    /// # use ryot_metrics::event::{Ignore, Origin};
    /// # let (toy, clock) = (Arc::new(Toy::instant()), Arc::new(MonotonicClock));
    /// # let engine = Engine::start(toy, EngineConfig::default(), Arc::new(Ignore), clock)?;
    /// let prompts = vec!["one".into(), "two".into()];
    /// let vectors = engine.embed(prompts, EmbedParams::default(), &Origin::default())?;
    /// assert_eq!(vectors.values.len(), 2 * vectors.width);
    /// # Ok::<(), ryot_metrics::error::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::EmptyPrompt`], [`Error::PromptTooLong`], [`Error::InvalidArgument`],
    /// [`Error::EngineClosed`], [`Error::Decode`], [`Error::OutOfMemory`] or [`Error::Forked`]. One
    /// prompt that is refused refuses all.
    pub fn embed(
        &self,
        prompts: Vec<Prompt>,
        params: EmbedParams,
        origin: &Origin,
    ) -> Result<Embeddings> {
        self.link.guard("compute embeddings")?;
        let queued_at = self.clock.now();
        let numbered = self.readable(prompts).and_then(|prompts| {
            let first = self.link.number(prompts.len())?;
            Ok((prompts, first))
        });
        let (prompts, first) = numbered.inspect_err(|error| {
            let origin = origin.clone();
            self.observer.observe(&Event::Rejected { kind: error.kind(), origin });
        })?;
        let pooling = params.pooling.unwrap_or_else(|| self.pooling());
        let normalize = params.normalize;
        let mut call = Call { client: self, prompts, pooling, normalize, first, ended: 0 };
        call.queued(queued_at, origin);
        let outcome = call.compute();
        call.end(outcome.as_ref().err());
        outcome
    }

    /// The model's own.
    fn pooling(&self) -> Pooling {
        let named = self.model.info().pooling.as_deref();
        named.and_then(|name| Pooling::parse(name).ok()).unwrap_or_default()
    }

    /// The tokens of each prompt, all of which can be computed.
    fn readable(&self, prompts: Vec<Prompt>) -> Result<Vec<Vec<Token>>> {
        let info = self.model.info();
        let EngineConfig { ctx_size, batch_size, .. } = self.config;
        let whole = if info.causal { ctx_size } else { ctx_size.min(batch_size) };
        let limit = whole.min(info.context_train);
        let tokens = |prompt| match self.tokens(prompt)? {
            tokens if tokens.is_empty() => Err(Error::EmptyPrompt),
            tokens if tokens.len() > limit => {
                Err(Error::PromptTooLong { tokens: tokens.len(), limit, size: "ctx_size" })
            }
            tokens => Ok(tokens),
        };
        prompts.into_iter().map(tokens).collect()
    }
}

/// One call of [`Client::embed`].
struct Call<'a> {
    client: &'a Client,
    prompts: Vec<Vec<Token>>,
    pooling: Pooling,
    normalize: bool,
    /// The request of the first prompt; the others follow.
    first: RequestId,
    /// How many of them have ended.
    ended: usize,
}

impl Call<'_> {
    fn queued(&self, at: Nanos, origin: &Origin) {
        for (id, prompt) in (self.first..).zip(&self.prompts) {
            let (prompt_tokens, class) = (prompt.len(), Class::default());
            let origin = origin.clone();
            let queued = Event::Queued { id, at, prompt_tokens, class, origin };
            self.client.observer.observe(&queued);
        }
    }

    fn compute(&mut self) -> Result<Embeddings> {
        let Client { link, model, config, .. } = self.client;
        let _turn = link.embedding.lock();
        let groups = groups(&self.prompts, config.batch_size);
        let tokens = |group: &Range<usize>| self.prompts[group.clone()].iter().map(Vec::len).sum();
        let cells = groups.iter().map(tokens).max().unwrap_or(0);
        let decoder = DecoderConfig {
            cells,
            sequences: groups.iter().map(Range::len).max().unwrap_or(0),
            batch_size: config.batch_size.min(cells),
            unified: true,
            embeddings: true,
            ..config.decoder()
        };
        let mut outcome = Ok(Embeddings::default());
        if !groups.is_empty() {
            model.run(&decoder, &mut |lent| outcome = self.pool(lent, &decoder, &groups))?;
        }
        outcome
    }

    fn pool(
        &mut self,
        decoder: &mut dyn Decoder,
        config: &DecoderConfig,
        groups: &[Range<usize>],
    ) -> Result<Embeddings> {
        let mut embeddings = Embeddings::default();
        for group in groups {
            self.client.link.number(0)?; // unless the engine was shut down meanwhile
            let at = self.client.clock.now();
            for prompt in group.clone() {
                let id = self.first + prompt as RequestId;
                self.client.observer.observe(&Event::Scheduled { id, at });
            }
            let prompts = &self.prompts[group.clone()];
            for mut vector in pool_group(decoder, prompts, config.batch_size, self.pooling)? {
                if self.normalize {
                    normalize(&mut vector);
                }
                embeddings.width = vector.len();
                embeddings.values.append(&mut vector);
            }
            self.finish(group.len(), FinishReason::Stop, group.len());
        }
        Ok(embeddings)
    }

    /// The requests of the next so many prompts end.
    fn finish(&mut self, count: usize, reason: FinishReason, batch_size: usize) {
        let at = self.client.clock.now();
        for prompt in self.ended..self.ended + count {
            let id = self.first + prompt as RequestId;
            self.client.observer.observe(&Event::Finished { id, at, reason, batch_size });
        }
        self.ended += count;
    }

    /// The requests that have not ended end with this error.
    fn end(&mut self, error: Option<&Error>) {
        let reason = match error {
            None | Some(Error::EngineClosed) => FinishReason::Cancelled,
            Some(error) => FinishReason::Error(error.kind()),
        };
        self.finish(self.prompts.len() - self.ended, reason, 0);
    }
}

/// Prompts that are computed in one batch; or one that is longer than a batch.
fn groups(prompts: &[Vec<Token>], batch_size: usize) -> Vec<Range<usize>> {
    let mut groups: Vec<Range<usize>> = Vec::new();
    let mut tokens = 0;
    for (index, prompt) in prompts.iter().enumerate() {
        tokens += prompt.len();
        match groups.last_mut() {
            Some(group) if tokens <= batch_size && group.len() < MAX_PARALLEL => group.end += 1,
            _ => {
                groups.push(index..index + 1);
                tokens = prompt.len();
            }
        }
    }
    groups
}

/// The vectors of a group, each prompt a sequence.
fn pool_group(
    decoder: &mut dyn Decoder,
    prompts: &[Vec<Token>],
    batch_size: usize,
    pooling: Pooling,
) -> Result<Vec<Vec<f32>>> {
    let rows_of = |(seq, prompt): (SeqId, &Vec<Token>)| {
        let row = |(position, &token)| Row { token, position, seq, wants_logits: false };
        prompt.iter().enumerate().map(row).collect::<Vec<_>>()
    };
    let rows: Vec<Row> = (0..).zip(prompts).flat_map(rows_of).collect();
    let mut pooled = vec![Vec::new(); prompts.len()];
    for rows in rows.chunks(batch_size) {
        decoder.decode(rows).map_err(|failure| {
            Error::Decode(match failure {
                DecodeFailure::Fatal(text) => text,
                failure => format!("the decoder failed at embeddings: {failure:?}"),
            })
        })?;
        for (index, row) in rows.iter().enumerate() {
            let missing = || Error::Decode("the model returned no embeddings".to_owned());
            let vector = decoder.embedding(index).ok_or_else(missing)?;
            let (seq, length) = (row.seq as usize, prompts[row.seq as usize].len());
            pooling.add(&mut pooled[seq], vector, row.position, length);
        }
    }
    (0..prompts.len()).for_each(|seq| decoder.forget(seq as SeqId));
    Ok(pooled)
}
