-- Writes down a job, and that all shards are still to be gone through. May be sent again.
--
-- KEYS  1 all jobs  2 open jobs  3 the job  4 its work
-- ARGV  2 job   3 selection   4 by   5 counted   6 shards   7 keep_ms
-- Returns 1 if it is there now, or 0 if another selection's job has this ID.

local selection = redis.call('HGET', KEYS[3], 'selection')
if selection then
  return selection == ARGV[3] and 1 or 0
end
redis.call('HSET', KEYS[3], 'selection', ARGV[3], 'by', ARGV[4], 'counted', ARGV[5], 'created_at_ms', now_ms)
redis.call('PEXPIRE', KEYS[3], ARGV[7])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now_ms - ARGV[7])
redis.call('ZADD', KEYS[1], now_ms, ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
redis.call('ZADD', KEYS[2], now_ms, ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[7])
for number = 0, ARGV[6] - 1 do
  redis.call('ZADD', KEYS[4], 0, number)
end
redis.call('PEXPIRE', KEYS[4], ARGV[7])
audit(ARGV[4], 'job_started', '', '', ARGV[2] .. ': ' .. ARGV[3] .. ', ' .. ARGV[5] .. ' counted')
return 1
