-- Revokes tokens of one shard, or what is being applied for under their handles. Each is revoked once and queued once,
-- so it may be sent again.
--
-- KEYS  1 revocation queue
-- ARGV  2 priority   3 job they are counted for, or ''   4 '1': only those that a floor took   5 who
--       6... handles
-- Returns how many this revoked.

local handles = {}
for position = 6, #ARGV do
  handles[#handles + 1] = ARGV[position]
end
return revoke(handles, tonumber(ARGV[2]), ARGV[3], ARGV[5], ARGV[4] == '1')
