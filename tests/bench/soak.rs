//! A thousand kills of the real binary at random moments.
//!
//! `cargo bench --bench soak`; `ENRICH_SOAK_KILLS` and `ENRICH_SOAK_SEED` set how many and which.

#![expect(clippy::print_stdout, reason = "a benchmark prints")]
#![allow(clippy::unwrap_used, unreachable_pub, dead_code, unused_imports, reason = "shared with the tests")]

#[path = "../it/soak.rs"]
mod soak;
#[path = "../it/support/mod.rs"]
mod support;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::main]
async fn main() {
    let kills = u32::try_from(number("ENRICH_SOAK_KILLS").unwrap_or(1_000)).unwrap();
    let seed = number("ENRICH_SOAK_SEED").unwrap_or_else(|| fastrand::u64(..));
    let soaked = soak::soak(kills, seed).await;
    println!("kills                            {}", soaked.kills);
    println!("  with calls in flight           {}", soaked.kills_in_calls);
    println!("  just after a file or commit    {}", soaked.kills_around_commits);
    println!("rows                             {}", soaked.rows);
    println!("rows lost                        {}", soaked.lost);
    println!("rows doubled                     {}", soaked.doubled);
    println!("requests in flight at the kills  {}", soaked.in_flight_at_kills);
    println!("answers paid again               {}", soaked.paid_again);
    assert_eq!((soaked.lost, soaked.doubled), (0, 0));
    assert!(soaked.paid_again <= soaked.in_flight_at_kills);
}
