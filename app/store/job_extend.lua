-- Keeps the claim on a shard of a job's work for another lease; a shard that was struck off stays so. A script only
-- because it must work when Redis is full. May be sent again.
--
-- Returns nothing of use.

local work = unpack(KEYS)
local shard_number, lease_ms = unpack(ARGV, 2)

return redis.call('ZADD', work, 'XX', 'GT', now_ms + lease_ms, shard_number)
