-- Revokes tokens of one shard, or what is being applied for under their handles. Each is revoked once and queued once,
-- so it may be sent again.
--
-- KEYS  1 revocation queue
-- ARGV  2 priority   3 job they are counted for, or ''   4 '1': only those that a floor took   5 who
--       6... handles
-- Returns how many this revoked.

local revoked = 0
for position = 6, #ARGV do
  local handle = ARGV[position]
  local meant = true
  if ARGV[4] == '1' then
    local record = redis.call('HMGET', shard .. 't:' .. handle, 'role', 'begun')
    meant = record[1] and swept(record[1], record[2])
  end
  if meant and revoke(handle, tonumber(ARGV[2]), ARGV[3], ARGV[5]) then
    revoked = revoked + 1
  end
end
return revoked
