-- Writes which handle a cloud token belongs to, so that it can be looked up by the token. May be sent again.
--
-- `mac`: the key named by the token's HMAC

local mac = unpack(KEYS)
local handle, ttl_ms = unpack(ARGV, 2)

redis.call('SET', mac, handle, 'PX', ttl_ms)
return 1
