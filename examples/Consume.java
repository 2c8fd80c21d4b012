import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.Properties;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.ConsumerRecords;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

/**
 * Shows each image's tags and caption, as an indexer would store them, until Ctrl-C or for so many messages.
 *
 * <pre>TAGSTREAM_KAFKA_SERVERS=kafka:9092 java -cp 'kafka/libs/*' Consume.java [MESSAGES]</pre>
 *
 * A JDK of 17 or newer, and the jars of any Kafka. isolation.level=read_committed leaves out what was never committed.
 * An index that may meet events of one object in two orders also compares source.sequencer.
 */
public class Consume {
    public static void main(String[] arguments) throws Exception {
        int left = arguments.length > 0 ? Integer.parseInt(arguments[0]) : Integer.MAX_VALUE;
        Properties settings = new Properties();
        settings.put("bootstrap.servers", System.getenv("TAGSTREAM_KAFKA_SERVERS"));
        settings.put("group.id", System.getenv().getOrDefault("GROUP", "my-indexer"));
        settings.put("isolation.level", "read_committed");
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        ObjectMapper json = new ObjectMapper();
        try (var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(System.getenv().getOrDefault("TOPIC", "images.enriched")));
            while (left > 0) {
                ConsumerRecords<String, String> records = consumer.poll(Duration.ofSeconds(1));
                for (ConsumerRecord<String, String> record : records) {
                    String line = line(json.readTree(record.value()));
                    if (line != null) {
                        System.out.println(line); // an indexer writes here, and commits only then
                    }
                }
                left -= records.count();
                consumer.commitSync();
            }
        }
    }

    /** What to show of a message; null for kinds that this program does not know. */
    static String line(JsonNode output) {
        String subject = output.path("subject").asText();
        return switch (output.path("schema").asText().split("/")[0]) {
            case "enriched-image" -> subject + "\t" + tags(output.path("tags")) + "\t"
                    + output.path("caption").path("text").asText();
            case "image-retraction" -> subject + "\tremoved";
            default -> null;
        };
    }

    static String tags(JsonNode tags) {
        List<String> shown = new ArrayList<>();
        for (JsonNode tag : tags) {
            shown.add(String.format(
                    Locale.ROOT, "%s %.2f", tag.path("name").asText(), tag.path("score").asDouble()));
        }
        return String.join(", ", shown);
    }
}
