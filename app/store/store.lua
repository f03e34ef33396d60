-- Stores what the cloud returned: only if the application is still wanted (DESIGN, step 7). May be sent again: a resend
-- that finds its own record gets the same answer.
--
-- KEYS  1 device  2 token record  3 grant pointer  4 flight  5 device's index  6 revocation queue
-- ARGV  2 request   3 handle   4 epoch   5 sealed cloud tokens   6 expires_at_ms   7 keep_ms: how much longer the
--       record lives   8 client ID   9 role   10 scope   11 token record prefix   12 '1': all halves were obtained
-- Returns 'stored', or 'revoked': queued for the cloud and never handed out.

local record = redis.call('HMGET', KEYS[2], 'state', 'request', 'revocation', 'issued_at_ms')
if record[1] == 'live' and record[2] == ARGV[2] then
  return 'stored'
end
if record[3] == 'confirmed' then
  return 'revoked'
end

-- A lapsed lease alone is no reason to throw tokens away: only a successor is, who leads now or has stored.
local leader = redis.call('HGET', KEYS[4], 'handle')
local pointed = redis.call('GET', KEYS[3])
local newer = pointed and tonumber(redis.call('HGET', ARGV[11] .. pointed, 'issued_at_ms') or 0)
local ours = record[1] == 'applying' and record[2] == ARGV[2]
  and (leader == ARGV[3] or not leader)
  and (not newer or newer <= tonumber(record[4]))
local wanted = ARGV[12] == '1' and ours and redis.call('HGET', KEYS[1], 'epoch') == ARGV[4]

-- `request` too: the record may have expired while its leader was paused, and this makes it anew.
redis.call('HSET', KEYS[2], 'sealed', ARGV[5], 'expires_at_ms', ARGV[6], 'request', ARGV[2], 'epoch', ARGV[4],
  'client_id', ARGV[8], 'role', ARGV[9], 'scope', ARGV[10])
redis.call('PEXPIREAT', KEYS[2], ARGV[6] - ARGV[1] + ARGV[7])
if leader == ARGV[3] then
  redis.call('DEL', KEYS[4])
end

if not wanted then
  redis.call('HSETNX', KEYS[2], 'revoked_at_ms', now_ms)
  redis.call('HSET', KEYS[2], 'state', 'revoked')
  redis.call('ZREM', KEYS[5], ARGV[3])
  if redis.call('HSETNX', KEYS[2], 'revocation', 'queued') == 1 then
    redis.call('ZADD', KEYS[6], now_ms, ARGV[3])
  end
  if record[1] ~= 'revoked' then -- a tombstone told it when it was laid
    audit('server', 'discarded', ARGV[8], ARGV[3], '')
  end
  return 'revoked'
end

redis.call('HSET', KEYS[2], 'state', 'live')
redis.call('SET', KEYS[3], ARGV[3], 'PXAT', ARGV[6] - ARGV[1])
redis.call('ZADD', KEYS[5], ARGV[6], ARGV[3])
local last = redis.call('ZRANGE', KEYS[5], -1, -1, 'WITHSCORES')
redis.call('PEXPIREAT', KEYS[5], last[2] - ARGV[1])
audit('device:' .. ARGV[8], 'granted', ARGV[8], ARGV[3], string.sub(ARGV[10], 1, 200))
return 'stored'
