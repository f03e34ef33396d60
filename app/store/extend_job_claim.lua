-- Keeps the claim on a shard of a job's work for another lease; a shard that is done stays so. It is a script so that it
-- works when Redis is full. May be sent again.
--
-- Returns 0 (ZADD counts what it adds, and this adds nothing).

local work = unpack(KEYS)
local shard_number = unpack(ARGV, 2)

return redis.call('ZADD', work, 'XX', 'GT', now_ms + JOB_LEASE_MS, shard_number)
