-- Writes down which handle a cloud token belongs to, so that a token in hand can be looked up. May be sent again.
--
-- KEYS  1 the token's HMAC
-- ARGV  2 handle   3 ttl_ms

redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
