//! `RedisQueue`: pointers to due rows, in scripts that each make one move whole or not at all.

use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};
use pgw_core::env::Env;
use pgw_core::payment::Fence;
use pgw_core::queue::{
    Claim, Depth, Job, Lane, PER_ENDPOINT_MAX, Queue, QueueError, Settlement, Verdict,
};
use redis::{Script, ScriptInvocation, Value, cmd};

use crate::error::RedisError;
use crate::key::Shard;
use crate::member::{job, member};
use crate::pushes::{Pushes, Sending, Untaken, tell};
use crate::redis::{Inner, Redis};

/// A queue of pointers in Redis, over any durable storage. A claim writes nothing to the storage.
///
/// The rows in storage are the truth. A push that never happened, a `FLUSHALL`, an evicted key or a failover that loses the last second cost
/// time and no work: the reaper of each worker looks for due rows every few seconds and pushes what is missing. What runs twice by then
/// is told by the version of its row.
///
/// Leases and delays are judged by the clock of the server. A job that was claimed [`CLAIMS_MAX`](Self::CLAIMS_MAX) times without
/// being done is buried. Keys that nobody has claimed from for a week are forgotten. Redis is best set to `maxmemory-policy noeviction`: a push
/// that finds no room is made again later.
///
/// With [`FallbackQueue`](pgw_core::queue::FallbackQueue), or `PgStorage::queue_behind`, jobs are claimed from the rows while Redis is away. Pushes of several
/// callers at once go together; one waits at most four timeouts. Clones are handles on the same jobs.
#[derive(Debug, Clone)]
pub struct RedisQueue {
    redis: Arc<Inner>,
    env: Env,
    pushes: Pushes,
}

impl RedisQueue {
    /// Most jobs in each part of a lane by default, buried ones included: a few hundred megabytes of Redis.
    pub const JOBS_MAX_DEFAULT: u32 = 1_000_000;
    /// How often a job is given out before it counts as poison. A job is released again and again while a processor is down, so this is
    /// far above what retries of one outage come to.
    pub const CLAIMS_MAX: u32 = 1_000;

    pub(crate) fn new(redis: &Redis) -> Self {
        Self { redis: Arc::clone(&redis.0), env: Env::system(), pushes: Pushes::default() }
    }

    /// Loses everything, claims and buried jobs too, as a `FLUSHALL` does. The reapers push again what is due.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn clear(&self) -> Result<(), QueueError> {
        for lane in Lane::ALL {
            for shard in self.shards() {
                let mut unlink = cmd("UNLINK");
                unlink.arg(&self.redis.namespace.shard(lane, shard)[..]);
                let _: u64 = self.redis.link.command(&unlink).await.map_err(unavailable)?;
            }
        }
        Ok(())
    }

    /// Buried jobs, each with the reason; at most `limit`.
    ///
    /// # Errors
    /// [`QueueError::Unavailable`].
    pub async fn buried(
        &self,
        lane: Lane,
        limit: usize,
    ) -> Result<Vec<(Job, Box<str>)>, QueueError> {
        let mut buried = Vec::new();
        for shard in self.shards() {
            let [.., dead] = self.redis.namespace.shard(lane, shard);
            let mut cursor = 0_u64;
            loop {
                let mut scan = cmd("HSCAN");
                scan.arg(&dead).arg(cursor).arg("COUNT").arg(CHUNK);
                let (next, pairs): (u64, Vec<(Vec<u8>, String)>) =
                    self.redis.link.command(&scan).await.map_err(unavailable)?;
                for (bytes, reason) in pairs {
                    if let Some(job) = job(lane, &bytes) {
                        buried.push((job, reason.into()));
                    }
                }
                cursor = next;
                if cursor == 0 || buried.len() >= limit {
                    break;
                }
            }
        }
        buried.truncate(limit);
        Ok(buried)
    }

    fn shards(&self) -> impl Iterator<Item = Shard> + use<> {
        Shard::all(self.redis.shards)
    }

    /// A call of a script on a part of a lane, with what each of them is given first.
    fn call<'s>(&self, script: &'s Script, lane: Lane, shard: Shard) -> ScriptInvocation<'s> {
        let mut call = script.prepare_invoke();
        for key in self.redis.namespace.shard(lane, shard) {
            call.key(key);
        }
        let bound = if lane == Lane::Deliveries { PER_ENDPOINT_MAX } else { 0 };
        call.arg(self.redis.clock.offset()).arg(bound);
        call
    }

    /// Puts what belongs to jobs together by where those are, as many as go into a call; each with its place.
    fn parted<'a, T>(&self, all: &'a [T], job: impl Fn(&T) -> &Job) -> Vec<Part<'a, T>> {
        let mut parts: BTreeMap<(Lane, u16), Vec<(usize, &'a T)>> = BTreeMap::new();
        for (place, one) in all.iter().enumerate() {
            let shard = Shard::of(job(one), self.redis.shards);
            parts.entry((job(one).lane(), shard.number)).or_default().push((place, one));
        }
        let of = self.redis.shards;
        let parts = parts.into_iter().flat_map(|((lane, number), part)| {
            let chunks: Vec<_> = part.chunks(CHUNK).map(<[_]>::to_vec).collect();
            chunks.into_iter().map(move |chunk| (lane, Shard { number, of }, chunk))
        });
        parts.collect()
    }

    /// A call of a script that adds the jobs of a part, and the places of those that it knows.
    fn adding(
        &self,
        script: &'static Script,
        (lane, shard, part): &Part<'_, (Job, Duration)>,
    ) -> (ScriptInvocation<'static>, Vec<usize>) {
        let mut call = self.call(script, *lane, *shard);
        call.arg(self.redis.jobs_max);
        let mut given = Vec::with_capacity(part.len());
        for (place, (job, duration)) in part {
            // A kind that this version does not know is left to those that do.
            let Some(member) = member(job) else { continue };
            call.arg(member).arg(micros(*duration));
            given.push(*place);
        }
        (call, given)
    }

    fn full(&self) -> Untaken {
        Untaken::Full { max: self.redis.jobs_max as usize }
    }

    /// Pushes for all who wait, until nobody does.
    async fn send(self, mut sending: Sending) {
        loop {
            let pushes = sending.take();
            if pushes.is_empty() {
                return;
            }
            let jobs: Vec<_> = pushes.iter().flat_map(|push| push.jobs.iter().cloned()).collect();
            tell(pushes, &self.push_all(&jobs).await);
        }
    }

    /// Pushes jobs; says of each why it was not taken, if so.
    async fn push_all(&self, jobs: &[(Job, Duration)]) -> Vec<Option<Untaken>> {
        let parts = self.parted(jobs, |(job, _)| job);
        let pushes = parts.iter().map(async |part| {
            let (call, given) = self.adding(&PUSH, part);
            (given, self.redis.link.run::<Vec<usize>>(&call).await)
        });
        let mut untaken = vec![None; jobs.len()];
        for (given, answer) in join_all(pushes).await {
            match answer {
                Ok(full) => {
                    for place in full.into_iter().filter_map(|n| given.get(n)) {
                        untaken[*place] = Some(self.full());
                    }
                }
                Err(error) => {
                    for place in given {
                        untaken[place] = Some(Untaken::Failed(error.clone()));
                    }
                }
            }
        }
        untaken
    }

    /// Claims from one part what has been due since then, at the latest, and tells since when the first of what is left there has been due.
    async fn claim_part(
        &self,
        lane: Lane,
        shard: Shard,
        max: usize,
        lease: Duration,
        due_since: Option<i64>,
    ) -> Result<(Option<i64>, Vec<Claim>), RedisError> {
        let mut moves = 0;
        loop {
            let mut call = self.call(&CLAIM, lane, shard);
            // Told apart from every other claim's by its randomness, and from this claim's others by what the script adds.
            let fences = format!("{:012x}", self.env.u64() >> 16);
            call.arg(max.min(CHUNK)).arg(micros(lease)).arg(fences).arg(Self::CLAIMS_MAX);
            call.arg(KEYS_KEPT_MS)
                .arg(due_since.map_or_else(String::new, |since| since.to_string()));
            let (head, given, is_more): (Vec<u8>, Vec<Value>, u8) =
                self.redis.link.run(&call).await?;
            let claims: Vec<Claim> = given.chunks(3).filter_map(|one| claim(lane, one)).collect();
            moves += 1;
            // Behind very many of an endpoint with enough out, which came due together, there may be others.
            if !claims.is_empty() || is_more == 0 || moves == MOVES_MAX {
                return Ok((time(&head), claims));
            }
        }
    }

    /// Since when the first of a part has been due.
    async fn head(&self, lane: Lane, shard: Shard) -> Result<Option<(i64, Shard)>, RedisError> {
        let head: Vec<u8> = self.redis.link.run(&self.call(&HEAD, lane, shard)).await?;
        Ok(time(&head).map(|since| (since, shard)))
    }

    /// Claims from several parts, always from that whose first has been due for longest.
    async fn claim_merged(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
        claims: &mut Vec<Claim>,
    ) -> Result<(), RedisError> {
        let heads = try_join_all(self.shards().map(|shard| self.head(lane, shard))).await?;
        let mut heads: Vec<(i64, Shard)> = heads.into_iter().flatten().collect();
        let mut merges = 0;
        while claims.len() < max {
            heads.sort_by_key(|(since, _)| std::cmp::Reverse(*since));
            let Some((since, shard)) = heads.pop() else { break };
            // Up to where another part has older ones, and a little further, so that parts in step are not asked for one job at a time.
            let next = heads.last().map(|(next, _)| (*next).max(since.saturating_add(SLACK)));
            let upto = next.filter(|_| merges < MERGES_MAX);
            merges += 1;
            let room = max - claims.len();
            let (left, given) = self.claim_part(lane, shard, room, lease, upto).await?;
            // Nothing was given where an endpoint has enough out: what is left there is not to be had now.
            let is_worth_it = !given.is_empty();
            claims.extend(given);
            heads.extend(left.filter(|_| is_worth_it).map(|left| (left, shard)));
        }
        Ok(())
    }
}

#[async_trait]
impl Queue for RedisQueue {
    async fn push(&self, jobs: &[(Job, Duration)]) -> Result<(), QueueError> {
        if jobs.is_empty() {
            return Ok(());
        }
        let (sending, told) = self.pushes.put(jobs);
        if let Some(sending) = sending {
            tokio::spawn(self.clone().send(sending));
        }
        // The sending may be on a runtime that nobody drives any more.
        let patience = self.redis.link.timeout().saturating_mul(PUSHES_IN_PATIENCE);
        match tokio::time::timeout(patience, told).await {
            Ok(told) => told,
            Err(_) => {
                self.pushes.abandon();
                Err(unavailable(RedisError::TimedOut(patience)))
            }
        }
    }

    async fn restore(&self, jobs: &[(Job, Duration)]) -> Result<Option<usize>, QueueError> {
        let parts = self.parted(jobs, |(job, _)| job);
        let restores = parts.iter().map(async |part| {
            let (call, given) = self.adding(&RESTORE, part);
            let (lost, looked): (usize, usize) =
                self.redis.link.run(&call).await.map_err(unavailable)?;
            if looked < given.len() { Err(QueueError::from(self.full())) } else { Ok(lost) }
        });
        Ok(Some(try_join_all(restores).await?.into_iter().sum()))
    }

    async fn claim(
        &self,
        lane: Lane,
        max: usize,
        lease: Duration,
    ) -> Result<Vec<Claim>, QueueError> {
        let mut claims = Vec::new();
        let claimed = if self.redis.shards == NonZeroU16::MIN {
            let shard = Shard { number: 0, of: self.redis.shards };
            loop {
                let room = max - claims.len();
                if room == 0 {
                    break Ok(());
                }
                match self.claim_part(lane, shard, room, lease, None).await {
                    Ok((_, given)) => {
                        let is_all = given.len() < room.min(CHUNK);
                        claims.extend(given);
                        if is_all {
                            break Ok(());
                        }
                    }
                    Err(error) => break Err(error),
                }
            }
        } else {
            self.claim_merged(lane, max, lease, &mut claims).await
        };
        match claimed {
            // What was claimed before something failed is held, and is to be done.
            Err(error) if claims.is_empty() => Err(unavailable(error)),
            _ => Ok(claims),
        }
    }

    async fn extend(&self, claims: &[Claim], lease: Duration) -> Result<Vec<bool>, QueueError> {
        let parts = self.parted(claims, |claim| &claim.job);
        let calls = parts.iter().map(async |(lane, shard, part)| {
            let mut call = self.call(&EXTEND, *lane, *shard);
            call.arg(micros(lease));
            for (_, claim) in part {
                call.arg(member(&claim.job).unwrap_or_default()).arg(fence(claim.fence));
            }
            self.redis.link.run::<Vec<u8>>(&call).await
        });
        answers(claims.len(), &parts, try_join_all(calls).await)
    }

    async fn settle(&self, settlements: &[Settlement]) -> Result<Vec<bool>, QueueError> {
        let parts = self.parted(settlements, |settlement| &settlement.claim.job);
        let calls = parts.iter().map(async |(lane, shard, part)| {
            let mut call = self.call(&SETTLE, *lane, *shard);
            for (_, Settlement { claim, verdict }) in part {
                let (what, with) = end(verdict);
                call.arg(member(&claim.job).unwrap_or_default()).arg(fence(claim.fence));
                call.arg(what).arg(with);
            }
            self.redis.link.run::<Vec<u8>>(&call).await
        });
        answers(settlements.len(), &parts, try_join_all(calls).await)
    }

    async fn depth(&self, lane: Lane) -> Result<Depth, QueueError> {
        let parts = self.shards().map(async |shard| {
            self.redis.link.run::<[u64; 5]>(&self.call(&DEPTH, lane, shard)).await
        });
        let mut whole = Depth::default();
        for [ready, delayed, in_flight, dead, oldest] in
            try_join_all(parts).await.map_err(unavailable)?
        {
            whole.ready += ready;
            whole.delayed += delayed;
            whole.in_flight += in_flight;
            whole.dead += dead;
            whole.oldest = whole.oldest.max(Duration::from_micros(oldest));
        }
        Ok(whole)
    }
}

/// What belongs to jobs of one part of a lane, each with its place.
type Part<'a, T> = (Lane, Shard, Vec<(usize, &'a T)>);

/// The answers of the parts, where their questions were.
fn answers<T>(
    count: usize,
    parts: &[Part<'_, T>],
    told: Result<Vec<Vec<u8>>, RedisError>,
) -> Result<Vec<bool>, QueueError> {
    let mut held = vec![false; count];
    for ((.., part), told) in parts.iter().zip(told.map_err(unavailable)?) {
        for ((place, _), is_held) in part.iter().zip(told) {
            held[*place] = is_held == 1;
        }
    }
    Ok(held)
}

/// A claimed job of its three parts; what is none was written by something else, and is left alone until its lease is over.
fn claim(lane: Lane, parts: &[Value]) -> Option<Claim> {
    let [Value::BulkString(bytes), Value::BulkString(fence), Value::Int(claims)] = parts else {
        return None;
    };
    let fence = u64::from_str_radix(std::str::from_utf8(fence).ok()?, 16).ok()?;
    let job = job(lane, bytes)?;
    Some(Claim { job, fence: Fence(fence), claims: u32::try_from(*claims).ok()? })
}

fn fence(fence: Fence) -> String {
    format!("{:016x}", fence.0)
}

/// What the script knows a verdict by, and what goes with it.
fn end(verdict: &Verdict) -> (&'static str, String) {
    match verdict {
        Verdict::Release { due_in } | Verdict::Committed { due_in: Some(due_in) } => {
            ("r", micros(*due_in).to_string())
        }
        Verdict::Postpone { due_in } => ("p", micros(*due_in).to_string()),
        Verdict::Bury { reason } => ("b", reason.chars().take(REASON_MAX).collect()),
        // Done, and what a later version may add: the rows are the truth, so forgetting is always safe.
        _ => ("d", String::new()),
    }
}

fn time(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A duration as scripts take it: at most a hundred years, so that times stay whole numbers that they can count with.
fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).min(MICROS_MAX)
}

fn unavailable(error: RedisError) -> QueueError {
    QueueError::Unavailable(error.into_source())
}

macro_rules! script {
    ($name:ident, $file:literal) => {
        static $name: LazyLock<Script> = LazyLock::new(|| {
            Script::new(concat!(include_str!("lua/queue.lua"), include_str!($file)))
        });
    };
}
script!(PUSH, "lua/push.lua");
script!(RESTORE, "lua/restore.lua");
script!(CLAIM, "lua/claim.lua");
script!(HEAD, "lua/head.lua");
script!(EXTEND, "lua/extend.lua");
script!(SETTLE, "lua/settle.lua");
script!(DEPTH, "lua/depth.lua");

/// The push under way and the next, each with its connection made anew.
const PUSHES_IN_PATIENCE: u32 = 4;
/// Most jobs in one call of a script, so that none keeps others waiting for more than some milliseconds.
const CHUNK: usize = 1_000;
/// By how many µs a job may be claimed before one of another part that has been due for longer.
const SLACK: i64 = 100_000;
/// How often parts take turns in one claim before each gives what it has.
const MERGES_MAX: usize = 64;
/// How often a claim that finds nothing lets more leases end and jobs come due.
const MOVES_MAX: usize = 200;
/// A week.
const KEYS_KEPT_MS: u64 = 7 * 24 * 60 * 60 * 1_000;
const MICROS_MAX: u64 = 100 * 365 * 24 * 60 * 60 * 1_000_000;
/// Most characters of a reason.
const REASON_MAX: usize = 1_000;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    /// Every key that a script touches is one of those it was given: a Cluster has no other way to know where it is to run.
    #[test]
    fn scripts_touch_no_key_but_those_they_are_given() {
        let names: BTreeSet<&str> =
            ["JOBS", "LATER", "WAITING", "OPEN", "FULL", "HELD", "SHARES", "DEAD"].into();
        // Parameters and locals that hold one of the names.
        let passed: BTreeSet<&str> = ["key", "into", "out_of", "KEYS[1]"].into();
        let scripts = [
            include_str!("lua/queue.lua"),
            include_str!("lua/push.lua"),
            include_str!("lua/restore.lua"),
            include_str!("lua/claim.lua"),
            include_str!("lua/head.lua"),
            include_str!("lua/extend.lua"),
            include_str!("lua/settle.lua"),
            include_str!("lua/depth.lua"),
            include_str!("lua/gcra.lua"),
        ];
        let mut calls = 0;
        for line in scripts.iter().flat_map(|script| script.lines()) {
            for call in line.split("call('").skip(1) {
                calls += 1;
                let (command, rest) = call.split_once('\'').expect("a command in quotes");
                if command == "TIME" {
                    continue;
                }
                let key = rest.trim_start_matches(", ");
                let key = &key[..key.find([',', ')']).expect("an argument ends")];
                assert!(names.contains(key) || passed.contains(key), "{command} {key}: {line}");
            }
        }
        assert!(calls > 40, "{calls} calls were looked at");
    }
}
