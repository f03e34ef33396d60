-- Writes down which handle a cloud token belongs to, so that a token in hand can be looked up. May be sent again.

local mac = unpack(KEYS)
local handle, ttl_ms = unpack(ARGV, 2)

redis.call('SET', mac, handle, 'PX', ttl_ms)
return 1
