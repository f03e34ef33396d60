-- Raises a revocation watermark: what began in this shard until now, under one role or under any, is revoked. Each job
-- raises it once, so this may be sent again, and a worker that was paused cannot take what began after its job was
-- answered.
--
-- `role`: EVERYTHING for any
-- Returns 1, or 0 if this job has raised it already.

local watermarks, job_counts = unpack(KEYS)
local role = unpack(ARGV, 2)

if redis.call('HSETNX', job_counts, 'raised', 1) == 0 then
  return 0
end
redis.call('PEXPIRE', job_counts, JOB_KEPT_MS)
redis.call('HSET', watermarks, role, redis.call('HINCRBY', watermarks, GENERATION, 1))
return 1
