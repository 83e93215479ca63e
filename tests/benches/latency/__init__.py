"""What callers wait for, against llama.cpp's own server engine: one scenario per promise.

Run: python -m tests.benches.latency --scenario stall --rounds 5

`trace` makes the requests, `client` sends them and notes when each token came, `figures` has the
arithmetic, `peers` the engines; the scenarios are in `interference`, `reuse` and `overload`,
`scenarios` lists them; `runner` gives each engine a process of its own and lets them take turns.

Every clock is the client's: `time.perf_counter` in the process that asks. Requests arrive when
their schedule says, whether or not earlier ones were answered (an open loop), and a time to first
token counts from the moment when the request was due.
"""
