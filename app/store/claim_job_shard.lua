-- Claims a shard that a job has still to go through, for JOB_LEASE_MS; with none left the job is done. Only
-- JOB_SHARDS_AT_ONCE are claimed at a time, or the load on Redis would grow with the number of instances. Two workers in
-- one shard do no harm, so a claim has no number: each of their steps is fenced by itself. May be sent again: the shard
-- that the first sending claimed then waits until its lease is over.
--
-- Returns the shard; -1: all that may be claimed is; -2: the job is done.

local open_jobs, job, work = unpack(KEYS)
local job_id = unpack(ARGV, 2)

if redis.call('ZCOUNT', work, '(' .. now_ms, '+inf') >= JOB_SHARDS_AT_ONCE then
  return -1
end
local free = redis.call('ZRANGE', work, '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, 1)
if free[1] then
  redis.call('ZADD', work, now_ms + JOB_LEASE_MS, free[1])
  return tonumber(free[1])
end
if redis.call('EXISTS', work) == 1 then
  return -1
end
if redis.call('ZREM', open_jobs, job_id) == 1 and redis.call('EXISTS', job) == 1 then
  redis.call('HSET', job, 'done_at_ms', now_ms)
  audit{who = SERVER, what = 'job_done', job = job_id, detail = job_id}
end
return -2
