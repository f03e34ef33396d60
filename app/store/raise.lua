-- Raises a floor: whatever of this shard was begun until now, of one role or altogether, is revoked. Once for each job,
-- so it may be sent again, and a worker that was paused cannot take what was begun after its job was answered.
--
-- Returns 1, or 0 if this job has raised it already.

local watermarks, job_counts = unpack(KEYS)
local role = unpack(ARGV, 2)

if redis.call('HSETNX', job_counts, 'raised', 1) == 0 then
  return 0
end
redis.call('PEXPIRE', job_counts, MONTH_MS)
redis.call('HSET', watermarks, role, redis.call('HINCRBY', watermarks, '#', 1))
return 1
