-- Claims a shard that a job has still to go through, for a while; with none left the job is done. Only so many are
-- gone through at once, or the load on Redis would grow with the number of instances. Two workers that go through one
-- shard do no harm, so a claim has no number: all they do is fenced where it is done. May be sent again: the shard
-- claimed by the first sending then waits until its lease is over.
--
-- KEYS  1 open jobs  2 the job  3 its work
-- ARGV  2 job   3 lease_ms   4 shards at once
-- Returns the shard; -1: others have all that may be had; -2: the job is done.

if redis.call('ZCOUNT', KEYS[3], '(' .. now_ms, '+inf') >= tonumber(ARGV[4]) then
  return -1
end
local free = redis.call('ZRANGE', KEYS[3], '-inf', now_ms, 'BYSCORE', 'LIMIT', 0, 1)
if free[1] then
  redis.call('ZADD', KEYS[3], now_ms + ARGV[3], free[1])
  return tonumber(free[1])
end
if redis.call('EXISTS', KEYS[3]) == 1 then
  return -1
end
if redis.call('ZREM', KEYS[1], ARGV[2]) == 1 and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('HSET', KEYS[2], 'done_at_ms', now_ms)
  audit('server', 'job_done', '', '', ARGV[2])
end
return -2
