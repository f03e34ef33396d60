-- Raises a floor: whatever of this shard was begun until now, of one role or altogether, is revoked. Once for each job,
-- so it may be sent again, and a worker that was paused cannot take what was begun after its job was answered.
--
-- KEYS  1 floors  2 the job's counts in this shard
-- ARGV  2 role, or '*' for all
-- Returns 1, or 0 if this job has raised it already.

if redis.call('HSETNX', KEYS[2], 'raised', 1) == 0 then
  return 0
end
redis.call('PEXPIRE', KEYS[2], MONTH_MS)
redis.call('HSET', KEYS[1], ARGV[2], redis.call('HINCRBY', KEYS[1], '#', 1))
return 1
