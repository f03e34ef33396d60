-- Claims a shard that a job has still to go through, for a while; with none left the job is done. Only so many are
-- gone through at once, or the load on Redis would grow with the number of instances. Two workers that go through one
-- shard do no harm, so a claim has no number: all they do is fenced where it is done. May be sent again: the shard
-- claimed by the first sending then waits until its lease is over.
--
-- Returns the shard; -1: others have all that may be had; -2: the job is done.

local open_jobs, job, work = unpack(KEYS)
local job_id, lease_ms, at_once = unpack(ARGV, 2)

if redis.call('ZCOUNT', work, '(' .. now_ms, '+inf') >= tonumber(at_once) then
  return -1
end
local free = redis.call('ZRANGE', work, '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, 1)
if free[1] then
  redis.call('ZADD', work, now_ms + lease_ms, free[1])
  return tonumber(free[1])
end
if redis.call('EXISTS', work) == 1 then
  return -1
end
if redis.call('ZREM', open_jobs, job_id) == 1 and redis.call('EXISTS', job) == 1 then
  redis.call('HSET', job, 'done_at_ms', now_ms)
  audit{who = SERVER, what = 'job_done', detail = job_id}
end
return -2
