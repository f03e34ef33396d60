-- Answers a token request with the grant's live token, if more than `fresh_ms` of its life remain.
-- Nearly every request ends here, so this asks for as little as it can. {'none'} says that only the assertion was used:
-- go on with request_token.lua under the same `request`. May be sent again with the same `request`, a random value.
--
-- Returns {'stale'} | {'used'} | {'expired'} | {'none'} | 'live' as request_token.lua answers it.

local device, assertion, grant = unpack(KEYS)
local request, epoch, used_until_ms, fresh_ms = unpack(ARGV, 2)

local refused = use_assertion(device, epoch, assertion, request, used_until_ms)
if refused then
  return {refused}
end
local token = live_token(grant, epoch)
if token and token.remaining_ms > tonumber(fresh_ms) then
  return {'live', now_ms, 0, '', token.handle, token.expires_at_ms, token.sealed}
end
return {'none'}
