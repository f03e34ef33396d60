-- Extends the lease of an application while its instance is still applying. May be sent again.
--
-- Returns 1, or 0 when the lease is no longer this application's.

local application, token = unpack(KEYS)
local handle = unpack(ARGV, 2)

-- By handle: a request may apply twice, and a late message about its first application must not touch the second.
local record = read_fields(token, 'state', 'client_id', 'role')
if redis.call('HGET', application, 'handle') ~= handle or record.state ~= APPLYING then
  return 0
end
redis.call('PEXPIRE', application, LEASE_MS)
redis.call('PEXPIRE', token, HORIZON_MS)
index_record(handle, record.client_id, record.role, now_ms + HORIZON_MS, 'XX')
return 1
