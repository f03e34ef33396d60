-- Revokes tokens of one shard, or what is being applied for under their handles. Each is revoked once and queued once,
-- so it may be sent again.
--
-- `job`: that it is counted for; '': none
-- `only_below_watermark`: '1': revoke only what is below a watermark
-- Returns how many this revoked.

local queue = unpack(KEYS)
local priority, job, only_below_watermark, actor, request_id = unpack(ARGV, 2)
local handles = {unpack(ARGV, 7)}

return revoke(handles, {
  priority = tonumber(priority),
  job = job ~= '' and job or nil,
  only_below_watermark = only_below_watermark == '1',
  who = actor,
  request_id = request_id,
})
